"""The part of synvisor that runs inside Python: a fork server, and what it changes in Synapse's processes.

Nothing here holds state of the homeserver. Whatever relies on an internal of Synapse or Twisted is looked for
by `recognition` first; where something is missing, synvisor starts Synapse without any of this.
"""
