"""How nearly every conversation begins, as scripts to play before what a test is about."""

from typing import Final

HANDSHAKE: Final = """
    0.00  C> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
          C< SA s    ack=c+1 win=65535 mss=1440 sackOK ts=t:500 ws=7
    0.01  C> A  c+1  ack=s+1 ts=501:t
"""
HELLO: Final = """
    0.02  C> PA c+1  ack=s+1 ts=502:t data=hello
          B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
"""
BACKEND: Final = """
    0.03  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ts=9000:502 ws=7
          B< PA c+1  ack=b+1 ts=502:9000 data=hello
          !! flow_spliced hostname=www.example.com
"""
SPLICED: Final = HANDSHAKE + HELLO + BACKEND

# The same without timestamps, whose values only get in the way where numbers and sizes are what matters.
PLAIN_HANDSHAKE: Final = """
    0.00  C> S  c    win=64240 mss=1460 sackOK ws=7
          C< SA s    ack=c+1 win=65535 mss=1440 sackOK ws=7
    0.01  C> A  c+1  ack=s+1
"""
PLAIN_HELLO: Final = """
    0.02  C> PA c+1  ack=s+1 data=hello
          B< S  c    win=65535 mss=1440 sackOK ws=7
"""
PLAIN_BACKEND: Final = """
    0.03  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws=7
          B< PA c+1  ack=b+1 data=hello
          !! flow_spliced hostname=www.example.com
"""
PLAIN_SPLICED: Final = PLAIN_HANDSHAKE + PLAIN_HELLO + PLAIN_BACKEND

# A client that repeats itself has been relieved of the first bytes by the time that its backend takes them.
RELIEVED: Final = (
    PLAIN_HANDSHAKE
    + """
    0.02  C> A  c+1  ack=s+1 data=hello[:50]
    0.03  C> A  c+1  ack=s+1 data=hello[:50]
          C< A  s+1  ack=c+51 win=639
          C> PA c+51 ack=s+1 data=hello[50:]
          B< S  c    win=65535 mss=1440 sackOK ws=7
    0.04  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws=7
          B< PA c+1  ack=b+1 data=hello
          !! flow_spliced
"""
)
