#!/usr/bin/env python3
"""datagram.py serve PORT: answers each datagram with itself.
datagram.py ask ADDRESS PORT LENGTH: sends one and waits for the same."""
import socket
import sys

if sys.argv[1] == "serve":
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(("::", int(sys.argv[2])))
    while True:
        data, peer = s.recvfrom(65536)
        s.sendto(data, peer)
else:
    family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(5)
    data = bytes(i * 7 % 251 for i in range(int(sys.argv[4])))
    s.connect((sys.argv[2], int(sys.argv[3])))
    s.send(data)
    sys.exit(s.recv(65536) != data)
