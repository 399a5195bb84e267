"""Print how many tests ran, from `go test -json` files, and fail if one was
skipped, none ran, or one failed for good. A test that passed only when it was
run again is named."""

import json
import sys

last = {}
unsteady = set()
for path in sys.argv[1:]:
    for line in open(path, encoding="utf-8"):
        event = json.loads(line)
        if "Test" not in event or event["Action"] not in ("pass", "fail", "skip"):
            continue
        key = (event["Package"], event["Test"])
        if last.get(key) == "fail" and event["Action"] == "pass":
            unsteady.add(key)
        last[key] = event["Action"]
counts = {action: sum(a == action for a in last.values()) for action in ("pass", "fail", "skip")}
for package, test in sorted(k for k, a in last.items() if a == "skip"):
    print("skipped, and nothing may be:", package, test)
for package, test in sorted(unsteady):
    print("unsteady, passed only when run again:", package, test)
print(f"{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped")
sys.exit(1 if counts["fail"] or counts["skip"] or not counts["pass"] else 0)
