"""Scale-out over NATS JetStream: vSensors that keep no batch, and the consumer that writes the store."""
