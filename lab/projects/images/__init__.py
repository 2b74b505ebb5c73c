"""What `zowarmup new --kind images` copies: every file of this folder but this one."""
