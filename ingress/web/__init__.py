"""What every HTTP handler shares: who asks, what is bounded, and how errors are answered."""
