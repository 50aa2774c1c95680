"""Training steps: signals → statistics → direction → update, and the hook for other loops (theory §2, §3)."""
