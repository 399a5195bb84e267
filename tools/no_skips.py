"""Print how many tests ran, from `go test -json` files, and fail if one was
skipped or none ran."""

import json
import sys

passed = failed = 0
skipped = []
for path in sys.argv[1:]:
    for line in open(path, encoding="utf-8"):
        event = json.loads(line)
        if "Test" not in event:
            continue
        passed += event["Action"] == "pass"
        failed += event["Action"] == "fail"
        if event["Action"] == "skip":
            skipped.append(f"{event['Package']} {event['Test']}")
for name in skipped:
    print("skipped, and nothing may be:", name)
print(f"{passed} passed, {failed} failed, {len(skipped)} skipped")
sys.exit(1 if failed or skipped or not passed else 0)
