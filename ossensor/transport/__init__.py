"""The wire protocol: what is signed, what is sent, and how an upload is retried."""
