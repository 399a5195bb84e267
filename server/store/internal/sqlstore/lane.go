package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/authsec-ai/icp/identity"
)

const (
	maxBatch     = 128              // jobs in one transaction
	maxAttempts  = 4                // runs of a transaction that loses against others
	batchTimeout = 30 * time.Second // of one transaction, waiting for locks included
)

// job is one caller's part of a transaction.
type job struct {
	ctx  context.Context
	body func(ctx context.Context, t *tx) error
	done chan error // gets one answer, after the commit
}

// lanes queue jobs by scope. Each lane runs one transaction at a time; the jobs
// that come meanwhile share the next one. A lane lives while it has jobs, or if
// it stays until close: a new goroutine has to grow its stack for SQLite each time.
type lanes struct {
	run  func(scope Scope, batch []*job)
	stay bool // there is but one lane

	mu      sync.Mutex
	came    *sync.Cond       // a job, or close; for a lane that stays
	queues  map[Scope][]*job // a key is here while its lane runs
	closed  bool
	running sync.WaitGroup
}

func newLanes(stay bool, run func(scope Scope, batch []*job)) *lanes {
	l := &lanes{run: run, stay: stay, queues: map[Scope][]*job{}}
	l.came = sync.NewCond(&l.mu)
	return l
}

func (l *lanes) add(scope Scope, j *job) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed()
	}
	queue, running := l.queues[scope]
	l.queues[scope] = append(queue, j)
	if !running {
		l.running.Go(func() { l.drain(scope) })
	}
	l.came.Signal()
	return nil
}

func (l *lanes) drain(scope Scope) {
	for {
		batch := l.take(scope)
		if len(batch) == 0 {
			return
		}
		l.run(scope, batch)
	}
}

// take removes the next jobs; without any it ends the lane, or waits.
func (l *lanes) take(scope Scope) []*job {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.stay && !l.closed && len(l.queues[scope]) == 0 {
		l.came.Wait()
	}
	queue := l.queues[scope]
	if len(queue) == 0 {
		delete(l.queues, scope)
		return nil
	}
	n := min(len(queue), maxBatch)
	l.queues[scope] = queue[n:]
	return queue[:n]
}

// close refuses new jobs and waits for those it has.
func (l *lanes) close() {
	l.mu.Lock()
	l.closed = true
	l.came.Broadcast()
	l.mu.Unlock()
	l.running.Wait()
}

func (l *lanes) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// mutate runs a body that records a change or an audit event, in the tenant's lane.
func (db *DB) mutate(ctx context.Context, doing, tenant string, body func(ctx context.Context, t *tx) error) error {
	scope := Scope{Tenant: tenant}
	if db.cfg.OneWriter {
		scope = Scope{Across: true}
	}
	return db.failed(doing, db.queue(ctx, scope, body))
}

// write runs a body that records nothing.
func (db *DB) write(ctx context.Context, doing string, scope Scope, body func(ctx context.Context, t *tx) error) error {
	if db.cfg.OneWriter {
		return db.failed(doing, db.queue(ctx, Scope{Across: true}, body))
	}
	return db.failed(doing, db.attempt(func() error {
		return db.transact(ctx, db.cfg.Write, db.cfg.Dialect.WriteOptions(), scope, func(t *tx) error {
			if err := body(ctx, t); err != nil {
				return err
			}
			return db.hooks.beforeCommit(scope)
		})
	}))
}

// queue waits for its job. A caller that gives up leaves a job that has not
// begun undone; one that has begun may still be committed. After an error the
// body may therefore still run: its caller must not look at what it writes.
func (db *DB) queue(ctx context.Context, scope Scope, body func(ctx context.Context, t *tx) error) error {
	j := &job{ctx: ctx, body: body, done: make(chan error, 1)}
	if err := db.lanes.add(scope, j); err != nil {
		return err
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// runBatch runs jobs in one transaction. If that fails as a whole, each job
// gets a transaction of its own, so that one can't fail its neighbours.
func (db *DB) runBatch(scope Scope, batch []*job) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	if len(batch) > 1 {
		if answers, err := db.commitBatch(ctx, scope, batch); err == nil {
			for i, j := range batch {
				j.done <- answers[i]
			}
			return
		}
	}
	for _, j := range batch {
		j.done <- db.attempt(func() error { return db.commitOne(ctx, scope, j) })
	}
}

// attempt runs f again while it loses against other transactions.
func (db *DB) attempt(f func() error) error {
	var err error
	for range maxAttempts {
		if err = f(); err == nil {
			return nil
		}
		switch db.classify(err) {
		case Lost, Duplicate: // the checks of the next run see what this one ran into
		default:
			return err
		}
	}
	return err
}

// commitOne runs one job in a transaction of its own, which its refusal undoes.
func (db *DB) commitOne(ctx context.Context, scope Scope, j *job) error {
	return db.commit(ctx, scope, func(t *tx) error {
		if j.ctx.Err() != nil {
			return j.ctx.Err()
		}
		return j.body(ctx, t)
	})
}

// commitBatch gives each job's own refusal, or the error that rolled back all.
func (db *DB) commitBatch(ctx context.Context, scope Scope, batch []*job) ([]error, error) {
	answers := make([]error, len(batch))
	err := db.commit(ctx, scope, func(t *tx) error {
		for i, j := range batch {
			refused, err := runJob(ctx, t, j)
			if err != nil {
				return err
			}
			answers[i] = refused
		}
		return nil
	})
	return answers, err
}

// commit runs body, numbers and writes what it left, and tells after the commit.
func (db *DB) commit(ctx context.Context, scope Scope, body func(t *tx) error) error {
	var done []*record
	err := db.transact(ctx, db.cfg.Write, db.cfg.Dialect.WriteOptions(), scope, func(t *tx) error {
		if err := body(t); err != nil {
			return err
		}
		if err := db.finish(ctx, t); err != nil {
			return err
		}
		done = t.records
		return db.hooks.beforeCommit(scope)
	})
	if err == nil {
		db.committed(done)
	}
	return err
}

// runJob runs one job in a savepoint. It gives the job's refusal, which undoes
// this job alone, or an error that spoils the transaction.
func runJob(ctx context.Context, t *tx, j *job) (refused, err error) {
	if j.ctx.Err() != nil {
		return j.ctx.Err(), nil
	}
	before := len(t.records)
	if _, err := t.exec(ctx, "SAVEPOINT job"); err != nil {
		return nil, fmt.Errorf("set savepoint: %w", err)
	}
	err = j.body(ctx, t)
	var refusal *identity.Error
	if err != nil && !errors.As(err, &refusal) {
		return nil, err
	}
	if err != nil {
		t.records = t.records[:before]
		if _, err := t.exec(ctx, "ROLLBACK TO SAVEPOINT job"); err != nil {
			return nil, fmt.Errorf("roll back to savepoint: %w", err)
		}
	}
	if _, err := t.exec(ctx, "RELEASE SAVEPOINT job"); err != nil {
		return nil, fmt.Errorf("release savepoint: %w", err)
	}
	return err, nil
}
