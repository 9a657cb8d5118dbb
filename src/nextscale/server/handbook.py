"""The page at /docs: the OpenAPI document as plain HTML, without scripts and without anything to fetch."""

from __future__ import annotations

from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .2rem .6rem; vertical-align: top;
border-bottom: 1px solid #ddd } code { background: #f3f3f3; padding: 0 .2rem } h2 { margin-top: 2.5rem }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } code { background: #2a2a2a } }
"""
Schema = dict[str, Any]


def handbook(document: Schema) -> str:
    """An OpenAPI document as a page."""
    info = document["info"]
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('summary', ''))}</p>",
        '<p>As a document for programs: <a href="openapi.json">openapi.json</a>. Settings that are null are as if left '
        "out. What is wrong with a request is answered as <code>{&quot;error&quot;: {&quot;message&quot;, "
        "&quot;type&quot;, &quot;param&quot;, &quot;code&quot;}}</code>.</p>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += chapter(document, method, path, operation)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>"
    )


def chapter(document: Schema, method: str, path: str, operation: Schema) -> list[str]:
    """An operation: what it does, what it takes, what it answers."""
    about = operation.get("description") or operation.get("summary", "")
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(about)}</p>"]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<h3>Request, {escape(kind)}</h3>{field_table(document, resolved(document, content['schema']))}")
    content = operation.get("responses", {}).get("200", {}).get("content", {})
    for kind, answer in content.items():
        parts.append(f"<h3>Answer, {escape(kind)}</h3>{field_table(document, resolved(document, answer['schema']))}")
    return parts


def field_table(document: Schema, schema: Schema) -> str:
    """The fields of an object."""
    required = schema.get("required", [])
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "" if field.get("default") is None else f"default {field['default']}"
        need = "needed" if name in required else default
        cells = (f"<code>{escape(name)}</code>", escape(field_type(document, field)), escape(need))
        rows.append(f"<tr><td>{'<td>'.join(cells)}<td>{escape(field.get('description', ''))}")
    return f"<table>{''.join(rows)}</table>"


def field_type(document: Schema, field: Schema) -> str:
    """What a field holds, in words."""
    if "anyOf" in field:
        kinds = [field_type(document, option) for option in field["anyOf"] if option.get("type") != "null"]
        return " or ".join(kinds)
    field = resolved(document, field)
    if "enum" in field or "const" in field:
        return ", ".join(str(value) for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {field_type(document, field['items'])}"
    if field.get("type") == "object":
        return f"object: {', '.join(field.get('properties', {}))}"
    if field.get("contentMediaType") or field.get("format") == "binary":
        return "file"
    bounds = (("minimum", "from {}"), ("maximum", "to {}"), ("maxLength", "up to {} characters"))
    return " ".join([field.get("type", "any"), *(text.format(field[key]) for key, text in bounds if key in field)])


def resolved(document: Schema, schema: Schema) -> Schema:
    """The schema that a reference of the document names; other schemas as they are."""
    while "$ref" in schema:
        place: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        schema = place
    return schema
