"""A server that does nothing, `python bare.py PORT`: it shows what a load's own client costs.

Its answers are all alike, and it takes whatever comes in one read for one request.
"""

import select
import socket
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n%s\r\nHello, World!\n"


def main() -> None:
    """Serve until a signal ends the process."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connections[connection.fileno()] = connection
                epoll.register(connection, select.EPOLLIN)
                continue
            asked = connections[fd].recv(65536)
            closes = b"\nConnection: close" in asked
            if asked:
                connections[fd].send(ANSWER % (b"Connection: close\r\n" if closes else b""))
            if not asked or closes:
                connections.pop(fd).close()


if __name__ == "__main__":
    main()
