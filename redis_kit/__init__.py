"""What jetstream_load_test.py is built from: one noun a file, each to be read alone.

settings   every number that a reader may change, each a flag
ids        the number of an event and the stream ID it becomes
events     simulated events, and what is asked of any event
streams    every stream command, and the connection that sends it
schemas    the columns of each collection
sink       Parquet files that exist once or not at all
owner      whose data directory and whose streams these are
alarm      how a stage's failure reaches the others
seams      the places where a test may end the process
telemetry  counters, and the pages that show them
audit      the files read back and counted
results    what a finished run left, shown to a person
preflight  what is checked before the slow imports; needs nothing installed
server     find, start and end a local server; needs nothing installed
"""
