"""Networks that others trained, adapted to a task: ours beside PEFT's methods."""
