package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/icpdev"
	"github.com/authsec-ai/icp/e2e/stage/fault"
)

// product is what is killed and started again.
type product interface {
	// start runs what does not run, and returns when all of it answers. After
	// an error nothing runs.
	start(ctx context.Context) (icpdev.Info, error)
	// kill ends a part or all of it with SIGKILL and says which.
	kill(rng *rand.Rand) string
	// end ends whatever runs.
	end()
	// stop ends all of it as an operator would.
	stop() error
	// ended lets read when a part has ended; ask anew after each start.
	ended() <-chan struct{}
	// failure says which part has ended by itself, "" if none.
	failure() string
	// record reads what the server keeps of a tenant, when it has ended.
	record(ctx context.Context, tenant string) (Record, error)
	// links are those that may have faults, from the first start on.
	links() map[Link]*fault.Proxy
}

// plane is a product with its history.
type plane struct {
	product  product
	recorder *Recorder
	watched  []int // users whose processes are observed

	info  icpdev.Info // of the last start
	admin *icpdev.Admin
}

// startWithin bounds a start; icp dev itself gives up after 30 seconds.
const startWithin = 45 * time.Second

var (
	// errStillborn says that a start was cut short on purpose.
	errStillborn = errors.New("killed while it started")
	// errNotBack says that a start failed by itself.
	errNotBack = errors.New("it did not start")
)

// start starts the product. A start that is to be stillborn is cut off after
// that time, unless it was ready before.
func (p *plane) start(ctx context.Context, stillborn time.Duration) error {
	e := p.recorder.Begin(Event{Op: Start})
	limit := startWithin
	if stillborn > 0 {
		limit = stillborn
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	info, err := p.product.start(ctx)
	switch {
	case err == nil:
		e.Outcome = OK
	case ctx.Err() != nil && stillborn > 0:
		e.Detail, err = errStillborn.Error(), errStillborn
	case errors.Is(ctx.Err(), context.Canceled):
		e.Detail, err = ctx.Err().Error(), ctx.Err()
	default:
		e.Outcome, e.Detail, err = Refused, err.Error(), fmt.Errorf("%w: %w", errNotBack, err)
	}
	p.recorder.End(e)
	if err != nil {
		return err
	}
	p.info = info
	p.admin, err = info.Admin()
	return err
}

// kill ends the product as a power cut would. One that has ended by itself is
// noted as Refused. It says what was killed.
func (p *plane) kill(rng *rand.Rand) string {
	e := p.recorder.Begin(Event{Op: Kill})
	e.Outcome = OK
	failure := p.product.failure()
	e.Detail = p.product.kill(rng)
	if failure != "" {
		e.Outcome, e.Detail = Refused, "ended by itself: "+failure
	}
	p.recorder.End(e)
	return e.Detail
}

// sigterm is the Detail of an end that is no kill.
const sigterm = "SIGTERM"

// stop ends the product as an operator would. A check tells of what goes wrong.
func (p *plane) stop() {
	e := p.recorder.Begin(Event{Op: Kill, Detail: sigterm})
	err := p.product.stop()
	e.Outcome = OK
	if err != nil {
		e.Outcome, e.Detail = Refused, err.Error()
	}
	p.recorder.End(e)
}

// ask sends one administrative request, and says in e what came of it. An
// answer of 500 and more promises nothing, and neither does none at all.
func (p *plane) ask(ctx context.Context, e Event, method, path string, in, out any) Event {
	status, err := p.admin.Do(ctx, method, path, in, out)
	switch {
	case err == nil:
		e.Outcome = OK
	case status >= 400 && status < 500:
		e.Outcome, e.Detail = Refused, strconv.Itoa(status)
	default:
		e.Outcome, e.Detail = Unknown, err.Error()
	}
	return e
}

const workloads = "/api/v1/workloads"

// listedEntry is an entry as the server tells it.
type listedEntry struct {
	ID        string   `json:"id"`
	SPIFFEID  string   `json:"spiffe_id"`
	Hint      string   `json:"hint"`
	Selectors []string `json:"selectors"`
}

func (l listedEntry) listed() Listed {
	return Listed{ID: l.ID, Tag: l.Hint, Owner: ownerOf(l.Selectors)}
}

// ownerOf gives the user that selectors ask for; Nobody if they ask for more.
func ownerOf(selectors []string) int {
	text, ok := strings.CutPrefix(selectors[0], "unix:uid:")
	uid, err := strconv.Atoi(text)
	if len(selectors) != 1 || !ok || err != nil {
		return Nobody
	}
	return uid
}

// selectorsOf is the other way about. No process runs the program that nobody's
// entry asks for.
func selectorsOf(owner int) []string {
	if owner == Nobody {
		return []string{"unix:path:/nowhere/decoy", "unix:uid:0"}
	}
	return []string{fmt.Sprintf("unix:uid:%d", owner)}
}

// list reads all entries and notes them.
func (p *plane) list(ctx context.Context) ([]listedEntry, error) {
	e := p.recorder.Begin(Event{Op: List})
	var all []listedEntry
	for page := ""; ; {
		var answer struct {
			Items []listedEntry `json:"items"`
			Next  string        `json:"next"`
		}
		path := workloads + "?limit=500&page=" + url.QueryEscape(page)
		if _, err := p.admin.Do(ctx, http.MethodGet, path, nil, &answer); err != nil {
			return nil, fmt.Errorf("list the entries: %w", err)
		}
		all = append(all, answer.Items...)
		if page = answer.Next; page == "" {
			break
		}
	}
	for _, l := range all {
		e.List = append(e.List, l.listed())
	}
	e.Outcome = OK
	p.recorder.End(e)
	return all, nil
}

// allowEcho lets every workload of the run through the proxy to the sample
// service.
func (p *plane) allowEcho(ctx context.Context) error {
	_, err := p.admin.Do(ctx, http.MethodPut, "/api/v1/policies/chaos", map[string]any{
		"effect": "allow", "subjects": []string{"spiffe://" + p.info.TrustDomain + "/w/**"},
		"service": "echo", "methods": []string{http.MethodGet}, "paths": []string{"/echo"},
	}, nil)
	return err
}
