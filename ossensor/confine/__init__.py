"""What a child may still do once it has begun: system calls (seccomp) and files (Landlock)."""
