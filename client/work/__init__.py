"""What a device computes, and which work it takes on."""
