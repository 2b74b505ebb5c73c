"""What `zowarmup new --kind text` copies: every file of this folder but this one."""
