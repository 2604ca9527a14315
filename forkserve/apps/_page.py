"""The inspector's HTML page: one function from a Report to text, and the style.

Runs inside the demo app; knows nothing of WSGI. Everything that came with the request goes through ``_esc``, and the
content security policy lets a browser run no script and load nothing, so that even a slip there would stay harmless.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sized

from forkserve.apps._form import Body, Upload
from forkserve.apps._report import Report

_STYLE = """
:root{color-scheme:light dark;--bg:#f5f6f4;--card:#fff;--ink:#1b211f;--dim:#66706c;--line:#dfe4e1;--accent:#0e7c66;
--on-accent:#fff;--code:#eef2f0;--bad:#b3261e;--bad-bg:#fdeceb}
@media(prefers-color-scheme:dark){:root{--bg:#121615;--card:#1a201e;--ink:#e4e9e7;--dim:#97a29d;--line:#2c3532;
--accent:#4fc3a4;--on-accent:#06231c;--code:#222a27;--bad:#ff8f86;--bad-bg:#3a1d1b}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",
"DejaVu Sans",sans-serif}
main{max-width:66rem;margin:0 auto;padding:1.5rem 1rem 4rem}
code,pre,td,.line{font-family:ui-monospace,"Cascadia Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.84rem}
header{display:flex;align-items:baseline;gap:.6rem;flex-wrap:wrap}
h1{font-size:1.3rem;margin:0;letter-spacing:-.01em}
h1 a{color:inherit;text-decoration:none}
h2{font-size:1rem;margin:0 0 .7rem}
h2 small,summary small{color:var(--dim);font-weight:400;margin-left:.3rem}
.dim{color:var(--dim)}
.line{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--accent);border-radius:8px;
padding:.8rem 1rem;margin:1rem 0;overflow-wrap:anywhere;font-size:1rem}
.line b{color:var(--accent)}
.facts{display:flex;flex-wrap:wrap;gap:.6rem;margin:0 0 1rem}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.5rem .8rem;
flex:1 1 auto;min-width:5.5rem;max-width:100%}
.facts dt{color:var(--dim);font-size:.75rem}
.facts dd{margin:0;font-weight:600;font-size:.92rem;overflow-wrap:anywhere}
section,details{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:1rem;margin:0 0 1rem}
summary{font-weight:700;cursor:pointer}
details table{margin-top:.7rem}
table{width:100%;border-collapse:collapse;table-layout:fixed}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem .35rem 0;border-top:1px solid var(--line);
overflow-wrap:anywhere;unicode-bidi:isolate}
th{width:32%;font-weight:500;font-size:.84rem;color:var(--dim)}
td{white-space:pre-wrap}
.fault{background:var(--bad-bg);color:var(--bad);border-color:var(--bad);font-weight:600}
.fault p{margin:0}
.tries{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:1.5rem}
form{display:flex;flex-direction:column;gap:.5rem;min-width:0}
form h3{font-size:.9rem;margin:0}
label{font-size:.8rem;color:var(--dim);display:flex;flex-direction:column;gap:.15rem}
input,textarea{font:inherit;font-size:1rem;color:var(--ink);background:var(--bg);border:1px solid var(--line);
border-radius:6px;
padding:.35rem .55rem;width:100%;min-width:0}
textarea{resize:vertical;min-height:4.2rem}
input[type=file]{font-size:.8rem}
button{font:inherit;font-weight:600;color:var(--on-accent);background:var(--accent);border:0;border-radius:6px;
padding:.45rem 1rem;cursor:pointer;margin-top:auto}
a{color:var(--accent)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.links{display:flex;flex-wrap:wrap;gap:.5rem;list-style:none;margin:1.2rem 0 0;padding:1rem 0 0;border-top:1px solid
var(--line)}
.links a{display:block;border:1px solid var(--line);border-radius:99px;padding:.25rem .8rem;text-decoration:none;
font-size:.84rem}
.links a:hover{border-color:var(--accent)}
figure{margin:0 0 1rem;padding:0 0 1rem;border-bottom:1px solid var(--line)}
figure:last-child{margin:0;padding:0;border:0}
figcaption{font-weight:600;overflow-wrap:anywhere;unicode-bidi:isolate;margin-bottom:.3rem}
pre{background:var(--code);border-radius:6px;padding:.7rem;margin:.7rem 0 0;white-space:pre-wrap;overflow-wrap:anywhere;
max-height:22rem;overflow:auto;unicode-bidi:isolate}
img{display:block;max-width:100%;max-height:20rem;margin:.7rem 0 0;border:1px solid var(--line);border-radius:6px}
@media(max-width:34rem){main{padding:1rem .7rem 3rem}section,details{padding:.8rem}
table,tbody,tr,th,td{display:block;width:100%}td{border:0;padding:0 0 .45rem}th{padding:.45rem 0 0}}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    "Content-Security-Policy",
    (
        "default-src 'none'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none';"
        f" style-src 'sha256-{_STYLE_HASH}'"
    ),
)

# A control character would vanish from the page or end it (NUL); its picture from U+2400 on shows that it was there.
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}

_LINKS = (
    ("stream", "one line a second"),
    ("sleep?s=2", "answer after 2 s"),
    ("big?kib=256", "256 KiB"),
    ("boom", "raise"),
    ("boom?after=1", "raise midway"),
    ("?format=json", "this as JSON"),
)


def render(report: Report) -> str:
    """Return the whole page."""
    body = report.body
    parts = [
        _top(report),
        *(f'<section class="fault"><p>{_esc(fault)}</p></section>' for fault in report.faults),
        _table("Query", report.query),
        _table("Form", _field_rows(body)),
        _files("Files", body.uploads),
        _files("Body", [body.other] if body.other else []),
        _tries(report.mount),
        _table("Headers", report.headers),
        f"<details open><summary>Environ{_count(report.environ)}</summary>{_rows(report.environ)}</details>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_esc(report.request_line[:80])}</title>"
        f'<link rel="icon" href="{_esc(report.mount)}/favicon.ico"><style>{_STYLE}</style></head>\n'
        "<body><main>\n" + "\n".join(part for part in parts if part) + "\n</main></body>\n</html>\n"
    )


def _esc(text: str) -> str:
    return html.escape(text.translate(_CONTROL_PICTURES))


def _top(report: Report) -> str:
    method, _, rest = report.request_line.partition(" ")
    facts = (
        ("Method", report.method),
        ("Client", report.client),
        ("Worker pid", str(report.pid)),
        ("Generation", _or_dash(report.generation)),
        ("Slot", _or_dash(report.slot)),
        ("Python", report.python),
        ("Server", report.server),
    )
    cells = "".join(f"<div><dt>{name}</dt><dd>{_esc(value)}</dd></div>" for name, value in facts)
    return (
        f'<header><h1><a href="{_esc(report.mount)}/">forkserve</a></h1>'
        '<span class="dim">request inspector</span></header>'
        f'<p class="line"><b>{_esc(method)}</b> {_esc(rest)}</p><dl class="facts">{cells}</dl>'
    )


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _table(title: str, pairs: list[tuple[str, str]]) -> str:
    """Return a section, or nothing where there is nothing to show."""
    if not pairs:
        return ""
    return f"<section><h2>{title}{_count(pairs)}</h2>{_rows(pairs)}</section>"


def _count(shown: Sized) -> str:
    return f"<small>{len(shown)}</small>"


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{_esc(name)}</th><td>{_esc(value)}</td></tr>' for name, value in pairs)
    return f"<table>{rows}</table>"


def _field_rows(body: Body) -> list[tuple[str, str]]:
    rows = []
    for field in body.fields:
        clipped = len(field.value.encode()) < field.size_bytes
        rows.append((field.name, field.value + (f"… ({field.size_bytes} bytes)" if clipped else "")))
    return rows


def _files(title: str, uploads: list[Upload]) -> str:
    if not uploads:
        return ""
    figures = "".join(_figure(upload) for upload in uploads)
    return f"<section><h2>{title}{_count(uploads)}</h2>{figures}</section>"


def _figure(upload: Upload) -> str:
    pairs = [("Field", upload.field)] if upload.field else []
    pairs += [
        ("Content type", upload.content_type or "-"),
        ("Size", _size(upload.size_bytes)),
        ("SHA-256", upload.sha256),
    ]
    preview = ""
    if upload.is_image:
        encoded = base64.b64encode(upload.head).decode()
        preview = f'<img alt="preview" src="data:{upload.content_type};base64,{encoded}">'
    elif upload.text:
        more = "\n…" if len(upload.head) < upload.size_bytes else ""
        preview = f"<pre>\n{_esc(upload.text)}{more}</pre>"
    name = _esc(upload.filename) or '<span class="dim">no file name</span>'
    return f"<figure><figcaption>{name}</figcaption>{_rows(pairs)}{preview}</figure>"


def _size(size_bytes: int) -> str:
    exact = f"{size_bytes:,} byte{'' if size_bytes == 1 else 's'}"
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << shift:
            return f"{size_bytes / (1 << shift):.1f} {unit} ({exact})"
    return exact


def _tries(mount: str) -> str:
    base = _esc(mount)
    links = "".join(f'<li><a href="{base}/{_esc(path)}">/{_esc(path)} · {what}</a></li>' for path, what in _LINKS)
    return f"""<section><h2>Try</h2><div class="tries">
<form id="get" method="get" action="{base}/search"><h3>GET, a query</h3>
<label>q<input name="q" value="naïve café"></label><label>page<input name="page" type="number" value="2"></label>
<button>Send query</button></form>
<form id="post" method="post" action="{base}/form"><h3>POST, a form</h3>
<label>name<input name="name" value="Ada"></label>
<label>message<textarea name="message">Two lines,
3 € &amp; a &lt;tag&gt;.</textarea></label><button>Post form</button></form>
<form id="upload" method="post" enctype="multipart/form-data" action="{base}/upload"><h3>POST, an upload</h3>
<label>note<input name="note" value="see attached"></label>
<label>files<input name="files" type="file" multiple></label><button>Upload</button></form>
</div><ul class="links">{links}</ul></section>"""
