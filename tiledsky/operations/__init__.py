"""What a recipe is made of: each step knows what it reads, writes, holds in memory and does."""
