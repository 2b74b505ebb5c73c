"""What `zowarmup new --kind rows` copies: every file of this folder but this one."""
