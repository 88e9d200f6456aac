"""All settings as one value."""

from pydantic import model_validator

from pd_autoscaler.core.attribution import Thresholds
from pd_autoscaler.core.capacity import Priors
from pd_autoscaler.core.rules import GuardRules, LinkRules, NodeRules, Rules
from pd_autoscaler.core.snapshots import SignalRules
from pd_autoscaler.model.snapshot import Limits
from pd_autoscaler.settings import relations
from pd_autoscaler.settings.sections import (
    AdminSettings,
    AdvisorSettings,
    AgentSettings,
    AttributionSettings,
    CapacitySettings,
    GuardSettings,
    JournalSettings,
    LinkSettings,
    LogSettings,
    LoopSettings,
    NodeSettings,
    ProviderSettings,
    RouterSettings,
    ScrapeSettings,
    Section,
)


class Settings(Section):
    """Everything an operator can set; a plain value, so tests and simulations just build one.

    Built in code it raises pydantic's ValidationError; `load` turns that into a ConfigError.
    """

    loop: LoopSettings = LoopSettings()
    advisor: AdvisorSettings = AdvisorSettings()
    scrape: ScrapeSettings = ScrapeSettings()
    attribution: AttributionSettings = AttributionSettings()
    capacity: CapacitySettings = CapacitySettings()
    guard: GuardSettings = GuardSettings()
    node: NodeSettings = NodeSettings()
    links: LinkSettings = LinkSettings()
    agent: AgentSettings = AgentSettings()
    provider: ProviderSettings = ProviderSettings()
    router: RouterSettings = RouterSettings()
    journal: JournalSettings = JournalSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _relations_hold(self) -> "Settings":
        problems = [
            *relations.of_cycle(self.loop, self.scrape, self.node),
            *relations.of_shadows(self.loop),
            *relations.of_advisor(self.advisor, self.loop),
            *relations.of_scrape(self.scrape),
            *relations.of_capacity(self.capacity),
            *relations.of_guard(self.guard),
            *relations.of_links(self.links, self.router),
            *relations.of_places(self.provider, self.router),
            *relations.of_fleet(self.provider, self.links),
            *relations.of_journal(self.journal, self.guard),
            *relations.of_tokens(self.agent, self.admin),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def limits(self) -> Limits:
        """Return what no target may leave."""
        guard = self.guard
        return Limits(
            prompt_min=guard.prompt_min,
            prompt_max=guard.prompt_max,
            decoder_min=guard.decoder_min,
            decoder_max=guard.decoder_max,
            nodes_max=guard.nodes_max,
            ratio_min=guard.ratio_min,
            ratio_max=guard.ratio_max,
            fresh_quorum=guard.fresh_quorum,
        )

    def signal_rules(self) -> SignalRules:
        """Return how signals are read, and above what they count as high."""
        seen = self.attribution
        return SignalRules(
            window_s=self.scrape.window_s,
            age_max_s=self.scrape.age_max_s,
            pages_needed=self.scrape.source != "agents",
            demand_half_life_s=self.capacity.demand_half_life_s,
            priors=Priors(
                prefill_tokens_per_s=self.capacity.prefill_tokens_per_s,
                step_base_s=self.capacity.step_base_s,
                step_per_request_s=self.capacity.step_per_request_s,
                step_per_token_s=self.capacity.step_per_token_s,
            ),
            thresholds=Thresholds(
                queue=seen.queue,
                ttft_p95_s=seen.ttft_p95_s,
                tpot_p95_s=seen.tpot_p95_s,
                kv_used=seen.kv_used,
                transfer_wait=seen.transfer_wait,
                kv_export_backlog=seen.kv_export_backlog,
                pull_s=seen.pull_s,
                kv_expired_share=seen.kv_expired_share,
                links_down_share=seen.links_down_share,
                quorum_share=self.guard.fresh_quorum,
                has_latencies=self.scrape.source != "agents",
            ),
        )

    def rules(self, *, keeps_standby: bool = False) -> Rules:
        """Return what the pure half goes by; `keeps_standby` is a fact of the provider."""
        node, links, guard = self.node, self.links, self.guard
        return Rules(
            node=NodeRules(
                start_timeout_s=node.start_timeout_s,
                start_attempts_max=node.start_attempts_max,
                init_timeout_s=node.init_timeout_s,
                drain_deadline_s=node.drain_deadline_s,
                unlink_deadline_s=node.unlink_deadline_s,
                switch_timeout_s=node.switch_timeout_s,
                stop_timeout_s=node.stop_timeout_s,
                lost_after_s=node.lost_after_s,
                lost_share_max=node.lost_share_max,
                keeps_standby=keeps_standby,
            ),
            link=LinkRules(
                attempts_max=links.attempts_max,
                backoff_s=links.backoff_s,
                backoff_max_s=links.backoff_max_s,
                join_deadline_s=links.join_deadline_s,
                in_flight_max=links.in_flight_max,
                ranks=links.ranks,
                is_meshed=links.linker != "none",
            ),
            guard=GuardRules(
                limits=self.limits(),
                up_window_s=guard.up_window_s,
                down_window_s=guard.down_window_s,
                cooldown_s=guard.cooldown_s,
                step_up_max=guard.step_up_max,
                step_down_max=guard.step_down_max,
                transfer_failure_share=guard.transfer_failure_share,
                pay_back_max_s=guard.pay_back_max_s,
            ),
        )
