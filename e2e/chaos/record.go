package chaos

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	_ "modernc.org/sqlite" // the driver of the file that is read
)

// Record is what the server's database says after the run.
type Record struct {
	Issued   []Issued
	Entries  []Listed
	Damage   string // what the database says of its own integrity, "" if it is sound
	Unclosed int    // issuances whose end the server did not note
}

// Issued is one row of the issuance record.
type Issued struct {
	Serial string
	Kind   string    // "x509", "jwt" or "agent"
	State  string    // "intent", "issued" or "abandoned"
	Entry  string    // id, "" for an agent
	ID     string    // SPIFFE ID
	At     time.Time // when the server decided to sign it; zero if that is not known
}

// backdate is how far the validity of an X.509-SVID begins before that
// (docs/issuance.md).
const backdate = 10 * time.Second

// ReadRecord reads the database file of a server that has ended; it changes
// nothing in it.
func ReadRecord(ctx context.Context, path, tenant string) (Record, error) {
	address := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "mode=ro&_pragma=query_only(1)"}
	db, err := sql.Open("sqlite", address.String())
	if err != nil {
		return Record{}, fmt.Errorf("open %s: %w", path, err)
	}
	defer db.Close()
	var r Record
	if err := r.readDamage(ctx, db); err != nil {
		return Record{}, fmt.Errorf("read %s: %w", path, err)
	}
	return r, r.read(ctx, db, tenant)
}

// read reads the database of a server, of either kind.
func (r *Record) read(ctx context.Context, db *sql.DB, tenant string) error {
	err := r.readIssued(ctx, db, tenant)
	if err == nil {
		err = r.readEntries(ctx, db, tenant)
	}
	if err != nil {
		return fmt.Errorf("read the server's record: %w", err)
	}
	return nil
}

func (r *Record) readDamage(ctx context.Context, db *sql.DB) error {
	var word string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&word); err != nil {
		return err
	}
	if word != "ok" {
		r.Damage = word
	}
	return nil
}

func (r *Record) readIssued(ctx context.Context, db *sql.DB, tenant string) error {
	rows, err := db.QueryContext(ctx, `SELECT serial, kind, state, entry_id, spiffe_id, not_before FROM issuances WHERE tenant = $1`, tenant)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var i Issued
		var begin int64 // in microseconds
		if err := rows.Scan(&i.Serial, &i.Kind, &i.State, &i.Entry, &i.ID, &begin); err != nil {
			return err
		}
		if i.At = time.UnixMicro(begin); i.Kind != "jwt" {
			i.At = i.At.Add(backdate)
		}
		if i.State == "intent" {
			r.Unclosed++
		}
		r.Issued = append(r.Issued, i)
	}
	return rows.Err()
}

func (r *Record) readEntries(ctx context.Context, db *sql.DB, tenant string) error {
	rows, err := db.QueryContext(ctx, `SELECT id, spec FROM entries WHERE tenant = $1`, tenant)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var l listedEntry
		var spec []byte
		if err := rows.Scan(&l.ID, &spec); err != nil {
			return err
		}
		if err := json.Unmarshal(spec, &l); err != nil {
			return err
		}
		r.Entries = append(r.Entries, l.listed())
	}
	return rows.Err()
}
