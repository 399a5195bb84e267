package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// models: each bot reaches its own model and no other.
func (s *story) models(ctx context.Context) error {
	if s.broken == "models" { // let finance-bot use everything
		if err := s.allow(ctx, "demo-broken", "finance-bot", "*"); err != nil {
			return err
		}
		if _, err := s.until(ctx, financeUID, customerModel, http.StatusOK); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		uid   int
		bot   string
		model string
		want  int
	}{
		{salesUID, "sales-bot", customerModel, http.StatusOK},
		{salesUID, "sales-bot", financialModel, http.StatusForbidden},
		{financeUID, "finance-bot", customerModel, http.StatusForbidden},
		{financeUID, "finance-bot", financialModel, http.StatusOK},
	} {
		line, err := s.once(ctx, c.uid, c.model)
		if err != nil {
			return err
		}
		s.row(c.bot, c.model, line)
		if line.Status != c.want || line.SPIFFEID != s.id(c.bot) || line.Peer != s.dev.ProxyID() {
			return fmt.Errorf("%s asking for %s got %+v, want status %d", c.bot, c.model, line, c.want)
		}
	}
	return nil
}

// stranger: a process that nobody registered gets no identity.
func (s *story) stranger(ctx context.Context) error {
	uid := strangerUID
	if s.broken == "stranger" {
		uid = salesUID
	}
	line, err := s.once(ctx, uid, customerModel)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.table, "  stranger\tuid %d\t%s\t%s\n", uid, line.Event, line.Detail)
	if line.Event != "no-identity" || line.Detail != "PermissionDenied" {
		return fmt.Errorf("an unregistered process got %+v, want PermissionDenied from the agent", line)
	}
	return nil
}

// policyChange: a policy written by REST is in force within the bound.
func (s *story) policyChange(ctx context.Context) error {
	running, err := s.startBot(ctx, salesUID, "loop", financialModel)
	if err != nil {
		return err
	}
	defer running.stop()
	if _, err := running.next(ctx, func(l seen) bool { return l.Status == http.StatusForbidden }); err != nil {
		return fmt.Errorf("before the change: %w", err)
	}
	written := time.Now()
	if s.broken != "policy" {
		if err := s.allow(ctx, "demo-sales", "sales-bot", customerModel, financialModel); err != nil {
			return err
		}
	}
	line, err := running.next(ctx, func(l seen) bool { return l.Status == http.StatusOK })
	if err != nil {
		return fmt.Errorf("after the change: %w", err)
	}
	s.row("sales-bot", financialModel, line)
	return s.within("policy in force", line.Time.Sub(written))
}

// rotation: the identity changes under a running client, which loses nothing.
func (s *story) rotation(ctx context.Context) error {
	running, err := s.startBot(ctx, rotatingUID, "loop", customerModel)
	if err != nil {
		return err
	}
	defer running.stop()
	if s.broken == "rotation" { // its identity is taken away instead of renewed
		if err := s.admin.DeleteEntry(ctx, s.entries["rotating-bot"]); err != nil {
			return err
		}
	}
	serials, requests := map[string]bool{}, 0
	for len(serials) < 3 {
		line, err := running.next(ctx, func(seen) bool { return true })
		if err != nil {
			return err
		}
		requests++
		if line.Status != http.StatusOK {
			return fmt.Errorf("request %d failed: %+v", requests, line)
		}
		if !serials[line.Serial] {
			serials[line.Serial] = true
			s.row("rotating-bot", fmt.Sprintf("request %d", requests), line)
		}
	}
	fmt.Fprintf(s.table, "  rotating-bot\t%d requests\t0 failed\t%d certificates\n", requests, len(serials))
	return nil
}

// deletion: once its entry is gone, a bot that holds a valid certificate is
// refused, and its running answer is cut.
func (s *story) deletion(ctx context.Context) error {
	stream, err := s.startBot(ctx, salesUID, "stream", customerModel)
	if err != nil {
		return err
	}
	defer stream.stop()
	caller, err := s.startBot(ctx, salesUID, "loop", customerModel)
	if err != nil {
		return err
	}
	defer caller.stop()
	if _, err := stream.next(ctx, func(l seen) bool { return l.Event == "token" }); err != nil {
		return fmt.Errorf("the stream never began: %w", err)
	}
	before, err := caller.next(ctx, func(l seen) bool { return l.Status == http.StatusOK })
	if err != nil {
		return fmt.Errorf("the caller was never served: %w", err)
	}
	s.row("sales-bot", "before", before)
	deleted := time.Now()
	if s.broken != "deletion" {
		if err := s.admin.DeleteEntry(ctx, s.entries["sales-bot"]); err != nil {
			return err
		}
	}
	refused, err := caller.next(ctx, func(l seen) bool { return l.Time.After(deleted) && l.Status != http.StatusOK })
	if err != nil {
		return fmt.Errorf("the deleted caller is still served: %w", err)
	}
	s.row("sales-bot", "after", refused)
	cut, err := stream.next(ctx, func(l seen) bool { return l.Event != "token" })
	if err == nil && cut.Event != "cut" {
		err = fmt.Errorf("it ended by itself: %+v", cut)
	}
	if err != nil {
		return fmt.Errorf("the deleted caller's stream was not cut: %w", err)
	}
	if err := s.within("caller refused", refused.Time.Sub(deleted)); err != nil {
		return err
	}
	return s.within("running stream cut", cut.Time.Sub(deleted))
}

// within prints how long something took and refuses more than the bound.
func (s *story) within(what string, took time.Duration) error {
	if took < 0 {
		return fmt.Errorf("%s already %s before it should", what, -took)
	}
	fmt.Fprintf(s.table, "  %s after\t%s\t(bound %s)\n", what, took.Round(time.Millisecond), bound)
	if took > bound {
		return fmt.Errorf("%s after %s, the bound is %s", what, took, bound)
	}
	return nil
}
