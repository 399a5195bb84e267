package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/authsec-ai/icp/identity"
)

func notFound(kind, id string) error {
	return identity.Errorf(identity.NotFound, "there is no %s %q", kind, identity.Clip(id))
}

func errClosed() error { return identity.Errorf(identity.Unavailable, "the database is closed") }

// conflict names the object in the way.
func conflict(id, format string, args ...any) error {
	err := identity.Errorf(identity.Conflict, format, args...)
	err.ID = id
	return err
}

// absent turns "no rows" into NotFound.
func absent(err error, kind, id string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return notFound(kind, id)
	}
	return err
}

func (db *DB) classify(err error) Failure {
	var refusal *identity.Error
	if errors.As(err, &refusal) {
		return Fault
	}
	return db.cfg.Dialect.Classify(err)
}

// failed gives a driver's error its code and says what was being done; an
// *identity.Error passes as it is.
func (db *DB) failed(doing string, err error) error {
	var refusal *identity.Error
	if err == nil || errors.As(err, &refusal) {
		return err
	}
	if db.lanes.isClosed() {
		return errClosed()
	}
	cause := fmt.Errorf("%s: %w", doing, err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &identity.Error{Code: identity.Unavailable, Message: "the database did not answer in time; try again", Err: cause}
	}
	switch db.classify(err) {
	case Unavailable, Lost:
		return &identity.Error{Code: identity.Unavailable, Message: "the database is not available; try again", Err: cause}
	case Duplicate:
		return &identity.Error{Code: identity.Conflict, Message: "it exists already", Err: cause}
	case BadText:
		return &identity.Error{Code: identity.Invalid, Message: "a text holds a character that can't be stored", Err: cause}
	}
	return &identity.Error{Code: identity.Internal, Message: "the database refused", Err: cause}
}
