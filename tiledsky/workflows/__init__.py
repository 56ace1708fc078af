"""What a user asks for beside a run: estimates of files, export, restore, advice, injection, publishing."""
