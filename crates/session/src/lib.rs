//! The rules of one MQTT conversation, without I/O.
