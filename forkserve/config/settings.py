"""The settings: one declaration per option, and nothing else; here those of clients, files, the process and the logs.

The others stand in config/pool.py; ``Settings`` has all. Importable by every module; knows no file, argv or
environment.
"""

from functools import cache

from forkserve.config.options import Declared, Effect, Kind, declare, options
from forkserve.config.pool import PoolSettings

_ACCESS_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


class Settings(PoolSettings, frozen=True, kw_only=True):
    """All settings, typed and frozen; durations are seconds, sizes are bytes."""

    keepalive: float = declare(
        5.0, Kind.DURATION, "Clients",
        "How long an idle connection is kept for its next request. 0: every response closes its connection.",
        flags=("--keep-alive",), minimum=0,
    )  # fmt: skip
    header_timeout: float = declare(
        10.0, Kind.DURATION, "Clients",
        "How long a client may take to send the whole head of a request. 0: for ever.", minimum=0,
    )  # fmt: skip
    body_timeout: float = declare(
        30.0, Kind.DURATION, "Clients",
        "How long a client may be silent while it sends a body. 0: for ever.", minimum=0,
    )  # fmt: skip
    body_min_rate: int = declare(
        500, Kind.SIZE, "Clients",
        "How many bytes a second a client must send of a body on average, after `body_timeout` has passed once."
        " 0: any rate.", minimum=0,
    )  # fmt: skip
    handshake_timeout: float = declare(
        10.0, Kind.DURATION, "Clients",
        "How long a client may take for the TLS handshake and for the PROXY header. 0: for ever.", minimum=0,
    )  # fmt: skip
    send_timeout: float = declare(
        30.0, Kind.DURATION, "Clients",
        "How long a client may take nothing of a response that waits for it. 0: for ever.", minimum=0,
    )  # fmt: skip
    limit_request_line: int = declare(
        4094, Kind.SIZE, "Clients", "The longest request line, in bytes; a longer one is answered with 414. 0: the"
        " most that there can be, 1 MiB.",
        minimum=0, maximum=1 << 20,
    )  # fmt: skip
    limit_request_fields: int = declare(
        100, Kind.INTEGER, "Clients", "How many header fields a request may have; more are answered with 431.",
        minimum=1, maximum=32768,
    )  # fmt: skip
    limit_request_field_size: int = declare(
        8190, Kind.SIZE, "Clients", "The longest header field, in bytes; a longer one is answered with 431. 0: the most"
        " that there can be, 1 MiB.",
        flags=("--limit-request-field-size", "--limit-request-field_size"), minimum=0, maximum=1 << 20,
    )  # fmt: skip
    limit_request_body: int = declare(
        1 << 30, Kind.SIZE, "Clients", "The largest body, in bytes; a larger one is answered with 413. 0: no limit.",
        minimum=0,
    )  # fmt: skip

    stream_request_body: bool = declare(
        False, Kind.FLAG, "Clients",
        "Call the app when the head has arrived, and let it read the body while that arrives. It holds a worker for as"
        " long as the client sends; without it bodies are gathered first, in memory and then in an unlinked file."
        " A body that is too large, too slow or broken is answered as ever, and the app's read raises OSError."
        " For HTTP only: what a gateway sends is always gathered.",
    )  # fmt: skip
    limit_response_spool: int = declare(
        1 << 30, Kind.SIZE, "Clients",
        "How much of one response may wait in an unlinked file for a slow client; beyond it the app waits too.",
        minimum=0,
    )  # fmt: skip
    limit_spool: str = declare(
        "25%", Kind.ROOM, "Clients",
        "How much all such files of the service, and those of request bodies, may hold together: bytes, or a part of"
        " what is free on their disk; where they lie in a tmpfs, of the memory that the service may use. Beyond it apps"
        " wait for the clients of their responses, and clients with the bodies of their requests.",
    )  # fmt: skip

    forwarded_allow_ips: str = declare(
        "127.0.0.1,::1,unix", Kind.TEXT, "Proxies",
        "Whose X-Forwarded-For, -Proto, -Host, -Prefix and Forwarded fields are believed: addresses, networks such as"
        " 10.0.0.0/8, `*` for all, separated by commas. Anybody else's reach the app as fields like any other, and"
        " change nothing of REMOTE_ADDR, scheme or host. Every list but `none`, which is nobody, also believes whoever"
        " comes by a unix socket, and `unix` is nobody else.",
        variables=("FORWARDED_ALLOW_IPS",),
    )  # fmt: skip
    proxy_protocol: str = declare(
        "off", Kind.CHOICE, "Proxies",
        "Whether each HTTP connection begins with a PROXY header. Unless `off`, a connection without one is closed.",
        choices=("off", "v1", "v2", "any"),
    )  # fmt: skip
    proxy_allow_ips: str = declare(
        "127.0.0.1,::1,unix", Kind.TEXT, "Proxies",
        "Who may send a PROXY header, written as in `forwarded_allow_ips`; anybody else's connections are closed.",
    )  # fmt: skip
    gateway_allow_ips: str = declare(
        "127.0.0.1,::1,unix", Kind.TEXT, "Proxies",
        "Who may speak uwsgi, FastCGI or SCGI, and so say who the client is; written as in `forwarded_allow_ips`."
        " Anybody else's connections to such addresses are closed.",
    )  # fmt: skip
    mount: str = declare(
        "", Kind.TEXT, "Proxies",
        "Where the app is below the web server's root, such as `/shop`, for gateways that do not say it: it becomes"
        " SCRIPT_NAME and is cut from PATH_INFO. For uwsgi, FastCGI and SCGI; HTTP has X-Forwarded-Prefix.",
        metavar="PREFIX",
    )  # fmt: skip
    header_map: str = declare(
        "drop", Kind.CHOICE, "Proxies",
        "What becomes of header fields with an underscore in their name, which look like others to the app.",
        choices=("drop", "refuse"),
    )  # fmt: skip

    certfile: tuple[str, ...] = declare(
        (), Kind.TEXTS, "TLS",
        "The certificate chain in PEM; with it every address that speaks HTTP speaks TLS. Several: each client gets the"
        " one for the name it asks for (SNI), else the first.", metavar="FILE",
    )  # fmt: skip
    keyfile: tuple[str, ...] = declare(
        (), Kind.TEXTS, "TLS",
        "The private key of each certificate, in the same order. Empty: it stands in the file of the certificate.",
        metavar="FILE",
    )  # fmt: skip
    ca_certs: str = declare(
        "", Kind.PATH, "TLS", "The certificates in PEM of those who may sign client certificates.", metavar="FILE",
    )  # fmt: skip
    cert_reqs: str = declare(
        "none", Kind.CHOICE, "TLS", "Whether a client must show a certificate that `ca_certs` vouches for.",
        choices=("none", "optional", "required"),
    )  # fmt: skip
    ciphers: str = declare(
        "", Kind.TEXT, "TLS",
        "The ciphers of TLS 1.2 in OpenSSL's words. Empty: ECDHE with AES-GCM or ChaCha20-Poly1305.",
    )  # fmt: skip
    tls_min_version: str = declare(
        "1.2", Kind.CHOICE, "TLS", "The oldest version of TLS that is spoken.", choices=("1.2", "1.3"),
    )  # fmt: skip

    static: tuple[tuple[str, str], ...] = declare(
        (), Kind.MAP, "Files",
        "Folders whose files are served without the app, by prefix of the path:"
        ' `static = { "/static" = "/srv/www/assets" }`.', metavar="PREFIX=FOLDER",
    )  # fmt: skip
    static_follow_links: bool = declare(
        False, Kind.FLAG, "Files", "Serve also what symbolic links in these folders lead to outside of them.",
    )  # fmt: skip
    sendfile_folders: tuple[tuple[str, str], ...] = declare(
        (), Kind.MAP, "Files",
        "Folders from which the app may have a file sent: X-Accel-Redirect names it by the prefix, X-Sendfile by its"
        ' path. `sendfile_folders = { "/protected" = "/srv/files" }`.', metavar="PREFIX=FOLDER",
    )  # fmt: skip

    pidfile: str = declare(
        "", Kind.PATH, "Process",
        "Where the master writes its PID. The file stays locked while it lives. Empty: none.",
        effect=Effect.UPGRADE, flags=("-p", "--pid"), metavar="FILE",
    )  # fmt: skip
    user: str = declare(
        "", Kind.TEXT, "Process",
        "The user that workers become, by name or number, with all groups of that user. The master stays root: it"
        " binds low ports, reads keys and signals its workers. Empty: workers are who started forkserve.",
        flags=("-u", "--user"), metavar="USER",
    )  # fmt: skip
    group: str = declare(
        "", Kind.TEXT, "Process",
        "The group that workers become, by name or number. Empty: the user's own.",
        flags=("-g", "--group"), metavar="GROUP",
    )  # fmt: skip
    no_new_privs: bool = declare(
        True, Kind.FLAG, "Process",
        "Keep the programs that workers start from becoming another user by a setuid or setgid bit, or from getting"
        " capabilities (PR_SET_NO_NEW_PRIVS). false: for apps that call `sudo`, or a `sendmail` that is setgid.",
    )  # fmt: skip
    umask: str = declare(
        "", Kind.TEXT, "Process",
        'Which permissions the files of workers and unix sockets lack, in octal: `umask = "027"`. Empty: as'
        " inherited.", flags=("-m", "--umask"), metavar="OCTAL",
    )  # fmt: skip
    env: tuple[tuple[str, str], ...] = declare(
        (), Kind.MAP, "Process",
        'Variables that workers find in their environment, and apps in each environ:'
        ' `env = { "DJANGO_SETTINGS_MODULE" = "mysite.settings" }`.'
        " May be given several times.", flags=("-e", "--env"), metavar="KEY=VALUE",
    )  # fmt: skip
    proc_name: str = declare(
        "", Kind.TEXT, "Process",
        "A name that process titles show, to tell instances apart.", flags=("-n", "--name"), metavar="NAME",
    )  # fmt: skip

    control_socket: str = declare(
        "auto", Kind.PATH, "Process",
        "Where forkservectl reaches the master: a path, made with mode 0600; or `auto`, an abstract socket named after"
        " its PID, which needs no folder. Only the same user and root are heard. Empty: none.",
        effect=Effect.UPGRADE, metavar="PATH",
    )  # fmt: skip

    errorlog: str = declare(
        "-", Kind.PATH, "Logs", "Where the error log goes; `-` is stderr. USR1 reopens it.",
        flags=("--error-logfile", "--log-file"), metavar="FILE",
    )  # fmt: skip
    loglevel: str = declare(
        "info", Kind.CHOICE, "Logs", "The least severe level that the error log shows.",
        flags=("--log-level",), choices=("debug", "info", "warning", "error", "critical"), effect=Effect.NOW,
    )  # fmt: skip
    accesslog: str = declare(
        "", Kind.PATH, "Logs", "Where the access log goes; `-` is stdout. Empty: none. USR1 reopens it.",
        flags=("--access-logfile",), metavar="FILE",
    )  # fmt: skip
    access_log_format: str = declare(
        _ACCESS_FORMAT, Kind.TEXT, "Logs", "The line of the access log, with Gunicorn's atoms.",
        flags=("--access-logformat",), metavar="FORMAT",
    )  # fmt: skip


@cache
def declared() -> dict[str, Declared]:
    """All settings by name, in the order of declaration."""
    defaults = Settings()
    return {
        name: Declared(name, getattr(defaults, name), option)
        for name, option in zip(Settings.__struct_fields__, options, strict=True)
    }
