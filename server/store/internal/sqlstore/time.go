package sqlstore

import "time"

// Times are kept as microseconds since 1970, UTC, in both databases: they
// compare as numbers and the zero time survives.

func toMicro(t time.Time) int64 { return t.UnixMicro() }

func fromMicro(us int64) time.Time { return time.UnixMicro(us).UTC() }
