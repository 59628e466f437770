//! gRPC, journal and clock around the machine.
