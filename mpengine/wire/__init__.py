"""What crosses between processes: the layout of messages, and how users' objects become bytes and back."""
