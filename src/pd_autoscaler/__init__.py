"""Keeps a prompt/decoder-disaggregated LLM service at the right prompt:decoder ratio."""

__version__ = "0.1.0"
