package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/authsec-ai/icp/e2e/icpdev"
)

// The actors. Each runs as a user of its own, which is all that the agent needs
// to tell them apart.
const (
	salesUID, financeUID, rotatingUID, strangerUID = 20001, 20002, 20003, 20004
	customerModel, financialModel                  = "customer-service-llm", "financial-analysis-llm"
)

// bound is what the product promises for policy changes and revocation.
const bound = time.Second

// story holds what the steps share.
type story struct {
	dev     *icpdev.Instance
	admin   *icpdev.Admin
	binary  string // of this program, readable by every user
	broken  string
	keep    bool // leave it running at the end
	table   *tabwriter.Writer
	entries map[string]string // name → entry id
}

type step struct {
	name string
	run  func(*story, context.Context) error
}

var steps = []step{
	{"models", (*story).models},
	{"stranger", (*story).stranger},
	{"policy", (*story).policyChange},
	{"rotation", (*story).rotation},
	{"deletion", (*story).deletion},
}

func runStory(ctx context.Context, broken string, keep bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("run it as root: it starts workloads under other user ids")
	}
	if broken != "" && !slices.ContainsFunc(steps, func(s step) bool { return s.name == broken }) {
		return fmt.Errorf("DEMO_BREAK=%s: the steps are models, stranger, policy, rotation, deletion", broken)
	}
	folder, err := os.MkdirTemp("", "icp-demo-")
	if err != nil {
		return err
	}
	s := &story{broken: broken, keep: keep, entries: map[string]string{}}
	defer func() {
		if ctx.Err() != nil {
			err = s.interrupted(folder)
			return
		}
		err = s.end(folder, err)
	}()
	if err := s.start(ctx, folder); err != nil {
		return err
	}
	for _, step := range steps {
		fmt.Printf("\n%s\n", step.name)
		s.table = tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
		err := step.run(s, ctx)
		_ = s.table.Flush() // standard output is gone if this fails
		if err != nil {
			return fmt.Errorf("step %s: %w", step.name, err)
		}
	}
	fmt.Println("\nevery step held")
	return nil
}

// start brings up the product and registers the actors.
func (s *story) start(ctx context.Context, folder string) error {
	if err := os.Chmod(folder, 0o755); err != nil { // workloads of other users reach the socket
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if s.binary, err = copyProgram(self, filepath.Join(folder, "demo")); err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	began := time.Now()
	s.dev, err = icpdev.Start(starting, icpdev.Options{
		Binary: filepath.Join(filepath.Dir(self), "icp"), Dir: filepath.Join(folder, "dev"), Keep: s.keep})
	if err != nil {
		return err
	}
	fmt.Printf("icp dev is ready after %s: server %s, proxy %s, socket %s\n",
		time.Since(began).Round(time.Millisecond), s.dev.ServerURL, s.dev.ProxyURL, s.dev.AgentSocket)
	if s.admin, err = s.dev.Admin(); err != nil {
		return err
	}
	return s.register(ctx)
}

func (s *story) register(ctx context.Context) error {
	for _, actor := range []struct {
		name string
		uid  int
		ttl  string
	}{{"sales-bot", salesUID, "10m"}, {"finance-bot", financeUID, "10m"}, {"rotating-bot", rotatingUID, "5s"}} {
		id, err := s.admin.CreateEntry(ctx, icpdev.Entry{
			SPIFFEID:  s.id(actor.name),
			ParentID:  s.dev.AgentID,
			Selectors: []string{fmt.Sprintf("unix:uid:%d", actor.uid)},
			TTL:       actor.ttl,
		})
		if err != nil {
			return fmt.Errorf("register %s: %w", actor.name, err)
		}
		s.entries[actor.name] = id
	}
	return errors.Join(
		s.allow(ctx, "demo-sales", "sales-bot", customerModel),
		s.allow(ctx, "demo-finance", "finance-bot", financialModel),
		s.allow(ctx, "demo-rotating", "rotating-bot", customerModel),
	)
}

func (s *story) id(name string) string {
	return "spiffe://" + s.dev.TrustDomain + "/ai-agents/" + name
}

// allow writes a policy that lets one bot use models.
func (s *story) allow(ctx context.Context, policy, bot string, models ...string) error {
	_, err := s.admin.Do(ctx, http.MethodPut, "/api/v1/policies/"+policy, map[string]any{
		"name": policy, "effect": "allow", "subjects": []string{s.id(bot)}, "service": "llm",
		"methods": []string{"POST"}, "paths": []string{"/v1/chat/completions"}, "models": models,
	}, nil)
	return err
}

// end stops everything, or says how to, and names the logs on failure.
func (s *story) end(folder string, err error) error {
	switch {
	case s.dev == nil:
	case s.keep && err == nil:
		fmt.Printf("left running: process %d, folder %s; stop it with: kill %d\n", s.dev.Release(), folder, s.dev.PID)
		return nil
	default:
		err = errors.Join(err, s.dev.Stop())
	}
	if err != nil {
		return fmt.Errorf("%w\nlogs: %s.log", err, filepath.Join(folder, "dev"))
	}
	return os.RemoveAll(folder)
}

// interrupted stops everything and leaves nothing: whoever pressed Ctrl-C wants
// no logs.
func (s *story) interrupted(folder string) error {
	err := errors.New("interrupted; everything is stopped")
	if s.dev != nil {
		if stopErr := s.dev.Stop(); stopErr != nil {
			err = stopErr
		}
	}
	return errors.Join(err, os.RemoveAll(folder))
}

// row prints what a bot saw.
func (s *story) row(who, what string, line seen) {
	status := fmt.Sprint(line.Status)
	if line.Status == 0 {
		status = line.Event
	}
	expiry := "-"
	if !line.NotAfter.IsZero() {
		expiry = time.Until(line.NotAfter).Round(time.Second).String()
	}
	fmt.Fprintf(s.table, "  %s\t%s\t%s\tserial %.12s\texpires in %s\t%s\n", who, what,
		strings.TrimPrefix(line.SPIFFEID, "spiffe://"), line.Serial, expiry, status)
}
