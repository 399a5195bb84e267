package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/icpdev"
)

// plane is the product that is killed and started again, with its history.
type plane struct {
	recorder *Recorder
	binary   string // of icp
	dir      string
	watched  []int // users whose processes are observed

	instance *icpdev.Instance // nil while it is down
	info     icpdev.Info      // of the last start
	admin    *icpdev.Admin
}

// startWithin bounds a start; icp dev itself gives up after 30 seconds.
const startWithin = 45 * time.Second

// errStillborn says that a start was cut short on purpose.
var errStillborn = errors.New("killed while it started")

// start starts the product. One that is to be stillborn is killed after that
// time, unless it was ready before.
func (p *plane) start(ctx context.Context, stillborn time.Duration) error {
	e := p.recorder.Begin(Event{Op: Start})
	limit := startWithin
	if stillborn > 0 {
		limit = stillborn
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	instance, err := icpdev.Start(ctx, icpdev.Options{Binary: p.binary, Dir: p.dir})
	switch {
	case err == nil:
		e.Outcome = OK
	case ctx.Err() != nil && stillborn > 0:
		e.Detail, err = errStillborn.Error(), errStillborn
	case errors.Is(ctx.Err(), context.Canceled):
		e.Detail, err = ctx.Err().Error(), ctx.Err()
	default:
		e.Outcome, e.Detail = Refused, err.Error()
	}
	p.recorder.End(e)
	if err != nil {
		return err
	}
	p.instance, p.info = instance, instance.Info
	p.admin, err = instance.Admin()
	return err
}

// kill ends the product as a power cut would. One that has ended by itself is
// noted as Refused.
func (p *plane) kill() {
	if p.instance == nil {
		return
	}
	e := p.recorder.Begin(Event{Op: Kill})
	e.Outcome = OK
	select {
	case <-p.instance.Done():
		e.Outcome, e.Detail = Refused, "it had ended by itself: "+p.instance.Tail()
	default:
		p.instance.Kill()
	}
	p.recorder.End(e)
	p.instance = nil
}

// stop ends the product as an operator would.
func (p *plane) stop() error {
	e := p.recorder.Begin(Event{Op: Kill, Detail: "SIGTERM"})
	err := p.instance.Stop()
	e.Outcome = OK
	if err != nil {
		e.Outcome, e.Detail = Refused, err.Error()
	}
	p.recorder.End(e)
	p.instance = nil
	return err
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
