"""The async half of the loop: it observes and acts, and knows the outside only through ports."""
