"""What coordinator and client must have alike."""
