package conform

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// streamsAtATime is how many streams are opened side by side: enough to meet
// waiting in line, few enough that the measuring side is not what is measured.
const streamsAtATime = 8

// atOnce opens many streams after the first, which found the cache cold.
func atOnce(ctx context.Context, p *probe) (string, error) {
	if _, err := p.svids(); err != nil {
		return "", err
	}
	took, err := p.openStreams(ctx)
	if err != nil {
		return "", err
	}
	late := took[len(took)*99/100]
	if late > p.AtOnce {
		return "", fmt.Errorf("of %d streams, 1 in 100 took %s or longer, more than %s", len(took), late.Round(time.Millisecond), p.AtOnce)
	}
	return fmt.Sprintf("of %d streams, 99 in 100 had it within %s", len(took), late.Round(time.Microsecond)), nil
}

// openStreams gives how long each first message took, shortest first.
func (p *probe) openStreams(ctx context.Context) ([]time.Duration, error) {
	var mu sync.Mutex
	var took []time.Duration
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(streamsAtATime)
	for range p.Streams {
		group.Go(func() error {
			began := time.Now()
			err := ask(ctx, p, p.fetchX509).err
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(began))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("one of %d streams gives %w", p.Streams, err)
	}
	slices.Sort(took)
	return took, nil
}
