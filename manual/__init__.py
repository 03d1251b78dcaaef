"""The manual's reference, made from the code: nothing in it is written twice, or outdated."""
