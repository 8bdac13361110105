"""What each part costs, and what other tools do: `natsel bench`."""
