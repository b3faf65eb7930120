"""What training computes in C on processors; `fused_layers` and `projection` call it, and torch takes over where it cannot be had."""
