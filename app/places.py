"""Where the operator has written what an upstream is asked with: what a word about a wrong key can point at."""

from app.formats import variable
from app.roster import Entry
from app.settings import Settings


def place(settings: Settings, entry: Entry, field: str) -> str:
    """Of `base_url`, `api_key` or `model`: the variable, or the line of the list and where that is."""
    if not settings.upstreams:
        from_file = field == "api_key" and settings.upstream_api_key_file is not None
        return variable(f"upstream_{field}_file" if from_file else f"upstream_{field}")
    from_file = field == "api_key" and entry.api_key_file is not None
    line = f"{field}_file" if from_file else "models" if field == "model" and entry.models else field
    return f"{line} of the upstream '{entry.name}' in {settings.config or 'LIMNER_UPSTREAMS'}"


def places(settings: Settings, entry: Entry) -> dict[str, str]:
    return {field: place(settings, entry, field) for field in ("base_url", "api_key", "model")}
