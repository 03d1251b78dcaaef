"""The recipes that ship with Gobelin, one TOML each."""
