"""Who gives up on an answer that takes so many seconds: clients and what stands between, with their own defaults."""

#: Seconds, and who waits no longer unless told otherwise.
LIMITS = (
    (30, "Haystack and Heroku"),
    (60, "nginx, AWS load balancers, Spring AI and LangChain4j"),
    (100, "Cloudflare and .NET"),
    (120, "ruby-openai"),
    (600, "the OpenAI SDKs"),
)


def who_gives_up(seconds: float) -> str:
    """In words; empty where everybody waits."""
    known = [f"{who} ({limit} s)" for limit, who in LIMITS if seconds >= limit]
    return ", ".join(known)
