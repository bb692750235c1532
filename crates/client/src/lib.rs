//! A small MQTT client for the command line, the benches and the tests.
