"""The threat model as types: what the adversary knows, sees and answers, and what it never sees."""
