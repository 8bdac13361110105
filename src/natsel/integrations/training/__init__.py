"""What the callbacks of all trainers have in common; it knows none of them."""
