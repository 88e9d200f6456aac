"""Signals, demand and capacity as JSON; `passed_s` is what their ages are counted on by."""

from dataclasses import fields
from typing import Any

from pd_autoscaler.admin.numbers import number, seconds
from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal

Json = dict[str, Any]


def signal_view(signal: Signal | None, passed_s: float) -> Json | None:
    """Return a value with its age, None where it is unknown."""
    if signal is None:
        return None
    return {
        "value": number(signal.value),
        "age_s": seconds(signal.age_s + passed_s),
        "is_lower_bound": signal.is_lower_bound,
    }


def node_signals_view(signals: NodeSignals | None, passed_s: float) -> Json | None:
    """Return one node's signals, None where there never were any."""
    if signals is None:
        return None
    return {
        "engine": signals.engine,
        "age_s": None if signals.age_s is None else seconds(signals.age_s + passed_s),
        "is_fresh": signals.is_fresh,
        "doubt": signals.doubt,
        "queue": signal_view(signals.queue, passed_s),
        "transfer_wait": signal_view(signals.transfer_wait, passed_s),
        "running": signal_view(signals.running, passed_s),
        "kv_used": signal_view(signals.kv_used, passed_s),
        "kv_export_backlog": signal_view(signals.kv_export_backlog, passed_s),
        "token_rate": signal_view(signals.token_rate, passed_s),
    }


def role_signals_view(signals: RoleSignals, passed_s: float) -> Json:
    """Return a role's signals: counts of nodes and names as they are, others with their age."""
    view: Json = {}
    for field in fields(signals):
        value = getattr(signals, field.name)
        if isinstance(value, frozenset):
            view[field.name] = sorted(value)
        else:
            view[field.name] = value if isinstance(value, int) else signal_view(value, passed_s)
    return view


def demand_view(demand: Demand, passed_s: float) -> Json:
    """Return what users ask for."""
    return {
        field.name: signal_view(getattr(demand, field.name), passed_s) for field in fields(demand)
    }


def capacity_view(capacity: NodeCapacity) -> Json:
    """Return what one node of a class was seen to do; what was not learnt is None."""
    return {
        "role": capacity.role.value,
        "node_class": capacity.node_class,
        "prefill_tokens_per_s": number(capacity.prefill_tokens_per_s),
        "step_base_s": number(capacity.step_base_s),
        "step_per_request_s": number(capacity.step_per_request_s),
        "step_per_token_s": number(capacity.step_per_token_s),
        "samples": capacity.samples,
        "rejected": capacity.rejected,
        "error": number(capacity.error),
        "batch_max": number(capacity.batch_max),
        "tokens_max": number(capacity.tokens_max),
    }
