"""How much longer a test waits than an idle machine needs: a limit is for what hangs, not for what is slow."""

PATIENCE = 5.0
