package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Options of Run.
type Options struct {
	Bin string // folder of the programs
	// Apart kills icp-server, icp-agent and agentauth-proxy one by one, instead
	// of icp dev; of a new run.
	Apart    bool
	Postgres bool          // keeps the server's data, if it is apart; of a new run
	Faults   bool          // of the links between what is apart; of a new run
	Dir      string        // keeps everything; a run that was interrupted goes on from it
	Seed     uint64        // of a new run
	Kills    int           // in all, over interruptions
	Bound    time.Duration // within which a change must be seen; of a new run
	Limit    time.Duration // after which no further start begins
	Log      io.Writer     // a line for each start, fault and kill
}

// ErrUnfinished says that a run ended before all kills were done; Run with the
// same folder goes on.
var ErrUnfinished = errors.New("the run is not finished")

// ProgressFile is in the folder of every run.
const ProgressFile = "progress.json"

// progress is what a run keeps of itself beside the history.
type progress struct {
	Seed     uint64        `json:"seed"`
	Apart    bool          `json:"apart"`
	Postgres bool          `json:"postgres"`
	Faults   bool          `json:"faults"`
	Bound    time.Duration `json:"bound"`
	Done     int           `json:"done"`   // kills
	Starts   int           `json:"starts"` // in every name, so that none comes twice
}

// runner is one run.
type runner struct {
	Options   // seed and bound as they were when the run began
	progress  progress
	plane     *plane
	deadline  time.Time
	kept      []token
	observers []*process
}

// Run kills and starts the product until there were enough kills, and gives
// what is to be judged. The folder keeps what a later Run needs to go on.
//
// The observers are processes of the calling program: it must call Observe when
// its first argument is ObserverCommand.
func Run(ctx context.Context, o Options) (c *Case, err error) {
	failed := stage.Run(ctx, func(s *stage.Session) { c, err = run(s, o) })
	return c, errors.Join(err, failed)
}

func run(t stage.T, o Options) (*Case, error) {
	ctx := t.Context()
	r, err := open(t, o)
	if err != nil {
		return nil, err
	}
	err = r.run(ctx)
	r.plane.product.end()
	switch {
	case err != nil && ctx.Err() != nil:
		err = ErrUnfinished // whatever it broke
	case errors.Is(err, errNotBack):
		err = nil // that is for the checks to tell
	}
	err = errors.Join(err, r.stopObservers(), r.plane.recorder.Close())
	if err != nil {
		return nil, err
	}
	return r.judge(ctx)
}

// open continues the run of the folder, or begins one.
func open(t stage.T, o Options) (*runner, error) {
	r := &runner{Options: o, deadline: time.Now().Add(o.Limit)}
	r.progress = progress{Seed: o.Seed, Apart: o.Apart, Postgres: o.Postgres, Faults: o.Faults, Bound: o.Bound}
	if err := r.load(); err != nil {
		return nil, err
	}
	p := r.progress
	r.Seed, r.Apart, r.Postgres, r.Faults, r.Bound = p.Seed, p.Apart, p.Postgres, p.Faults, p.Bound
	if !r.Apart && (r.Faults || r.Postgres) {
		return nil, errors.New("icp dev has neither links nor PostgreSQL: run the programs apart")
	}
	recorder, err := OpenRecorder(r.file("history.jsonl"))
	if err != nil {
		return nil, err
	}
	r.plane = &plane{recorder: recorder, product: &whole{binary: filepath.Join(o.Bin, "icp"), dir: r.file("dev")}, watched: users()}
	if r.Apart {
		r.plane.product = &apart{t: t, bin: o.Bin, dir: r.file("apart"), postgres: r.Postgres, faults: r.Faults}
	}
	return r, r.closeInterrupted()
}

// users are those whose processes are watched: only root may run processes of
// others.
func users() []int {
	if os.Getuid() == 0 {
		return []int{0, 20001, 20002}
	}
	return []int{os.Getuid()}
}

func (r *runner) file(name string) string { return filepath.Join(r.Dir, name) }

func (r *runner) load() error {
	raw, err := os.ReadFile(r.file(ProgressFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.save()
	case err != nil:
		return err
	}
	if err := json.Unmarshal(raw, &r.progress); err != nil {
		return fmt.Errorf("read %s: %w", r.file(ProgressFile), err)
	}
	return nil
}

func (r *runner) save() error {
	raw, err := json.Marshal(r.progress)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.file("progress.new"), raw, 0o644); err != nil {
		return fmt.Errorf("keep the progress: %w", err)
	}
	return os.Rename(r.file("progress.new"), r.file(ProgressFile))
}

// closeInterrupted notes that the product ended with a harness that was killed:
// no later than its last event.
func (r *runner) closeInterrupted() error {
	h, err := readHistoryFile(r.file("history.jsonl"))
	if err != nil {
		return err
	}
	if turns := h.of(Start, Kill); len(turns) > 0 && turns[len(turns)-1].Op == Start && turns[len(turns)-1].Outcome == OK {
		last := h.end()
		r.plane.recorder.Note(Event{Op: Kill, Start: last, End: last, Outcome: OK, Detail: "with its harness"})
	}
	return nil
}

func (r *runner) run(ctx context.Context) error {
	for r.progress.Done < r.Kills {
		if err := r.untilKilled(ctx); err != nil {
			return err
		}
		r.progress.Done++
		if err := r.save(); err != nil {
			return err
		}
	}
	return r.untilQuiet(ctx)
}

// untilKilled has one turn.
func (r *runner) untilKilled(ctx context.Context) error {
	rng := r.killRng()
	t := r.turn(rng)
	entries, err := r.begin(ctx, t.stillborn)
	if errors.Is(err, errStillborn) {
		fmt.Fprintf(r.Log, "kill %d of %d: %s after its start began\n", r.progress.Done+1, r.Kills, t.stillborn.Round(time.Millisecond))
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(r.Log, "kill %d of %d: %s after it was ready, with %d entries\n", r.progress.Done+1, r.Kills, t.life.Round(time.Millisecond), len(entries))
	return r.underLoad(ctx, entries, t.life, t.outages, func() { fmt.Fprintf(r.Log, "  killed %s\n", r.plane.kill(rng)) })
}

// begin starts the product and looks at what it kept.
func (r *runner) begin(ctx context.Context, stillborn time.Duration) ([]listedEntry, error) {
	if ctx.Err() != nil || time.Now().After(r.deadline) {
		return nil, ErrUnfinished
	}
	r.progress.Starts++
	if err := r.save(); err != nil {
		return nil, err
	}
	if err := r.plane.start(ctx, stillborn); err != nil {
		return nil, err
	}
	entries, err := r.plane.list(ctx)
	if err == nil {
		err = r.plane.allowEcho(ctx)
	}
	if err == nil && r.observers == nil {
		err = r.startObservers()
	}
	return entries, err
}

// underLoad has everybody ask for a time, with faults, calls end, and waits for
// them.
func (r *runner) underLoad(ctx context.Context, entries []listedEntry, life time.Duration, faults []outage, end func()) error {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	for _, o := range faults {
		fmt.Fprintf(r.Log, "  %s\n", o)
	}
	var group sync.WaitGroup
	work := &load{plane: r.plane, cycle: r.progress.Starts, kept: &r.kept}
	group.Go(func() { work.run(asking, r.Seed, entries) })
	group.Go(func() { r.plane.suffer(asking, faults) })
	select {
	case <-ctx.Done():
	case <-r.plane.product.ended():
	case <-time.After(life):
	}
	end()
	stop()
	group.Wait()
	if ctx.Err() != nil {
		return ErrUnfinished
	}
	return nil
}

// faulty is the time in which the last run has its faults.
const faulty = 6 * time.Second

// untilQuiet has a last run end as an operator would end it, when everything
// has had the time to be seen.
func (r *runner) untilQuiet(ctx context.Context) error {
	entries, err := r.begin(ctx, 0)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.Log, "after %d kills: %d entries\n", r.progress.Done, len(entries))
	life, faults := r.Bound, r.outages(faulty)
	if r.Faults {
		life = max(life, faulty)
	}
	for i, o := range faults {
		faults[i].length = min(o.length, faulty-o.from)
	}
	if err := r.underLoad(ctx, entries, life, faults, func() {}); err != nil {
		return err
	}
	if !wait(ctx, r.Bound+2*time.Second) {
		return ErrUnfinished
	}
	r.plane.stop()
	return nil
}

// streams is how many each observer keeps open.
const streams = 2

func (r *runner) startObservers() error {
	program, err := installObserver(r.Dir)
	if err != nil {
		return fmt.Errorf("install the observer: %w", err)
	}
	dev := r.plane.info
	for _, uid := range r.plane.watched {
		p, err := startObserver(program, watch{UID: uid, Seed: r.Seed, Streams: streams,
			Socket: dev.AgentSocket, ProxyURL: dev.ProxyURL, ProxyID: dev.ProxyID()}, r.plane.recorder)
		if err != nil {
			return err
		}
		r.observers = append(r.observers, p)
	}
	return nil
}

func (r *runner) stopObservers() error {
	var all error
	for _, p := range r.observers {
		all = errors.Join(all, p.stop())
	}
	r.observers = nil
	return all
}

// judge puts the history beside the record.
func (r *runner) judge(ctx context.Context) (*Case, error) {
	h, err := readHistoryFile(r.file("history.jsonl"))
	if err != nil {
		return nil, err
	}
	record, err := r.plane.product.record(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return NewCase(h, record, r.Bound), nil
}

// tenant of `icp dev`.
const tenant = "dev"
