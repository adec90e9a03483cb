package sim

import (
	"context"
	"slices"
	"time"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/verify"
)

// Repaired is what repair did after members were lost at once.
type Repaired struct {
	Members, Releases, Replicas int

	Lost       int     // members that fell silent
	Every      float64 // seconds between two other members' restarts meanwhile; 0 is none
	Gone       int     // releases without any copy left
	Lacking    int     // releases with some copies, but too few
	Done       bool    // all of those have enough again
	Took       float64 // minutes until then
	Most       float64 // minutes until nine of ten had
	Pulls      int64   // zips copied
	Messages   float64 // for each member left
	Control    float64 // bytes of records, pushes and claims, for each member left
	Content    float64 // bytes of files, for each member left
	CPU        float64 // processor time for each member left, in milliseconds
	Unrepaired int     // releases with too few copies in the end
}

// repairStep is how exactly the time of a repair is known.
const repairStep = 5 * time.Second

// Restore has repair bring every release to its number of copies, as it is before
// anything is measured; false is that it did not in time.
func (w *World) Restore(releases []*Release, within time.Duration) bool {
	for end := time.Now().Add(within); ; time.Sleep(repairStep) {
		if _, lacking := w.lacking(releases); lacking == 0 {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// lacking counts releases without copies, and those with too few.
func (w *World) lacking(releases []*Release) (gone, few int) {
	for _, n := range w.Copies(releases) {
		switch {
		case n == 0:
			gone++
		case n < w.replicas():
			few++
		}
	}
	return gone, few
}

func (w *World) replicas() int {
	if w.cfg.Replicas == 0 {
		return 2
	}
	return w.cfg.Replicas
}

// MeasureRepair lets a part of the members fall silent at once, and watches repair
// until every release that is left has its copies, or the time is over. If every
// is not zero, another member is restarted that often meanwhile.
func (w *World) MeasureRepair(releases []*Release, part float64, every, within time.Duration) (r Repaired, err error) {
	up := w.Up()
	w.rng.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
	return w.MeasureLoss(releases, up[:int(part*float64(len(up)))], every, within)
}

// MeasureLoss is MeasureRepair for the members named.
func (w *World) MeasureLoss(releases []*Release, lost []*Member, every, within time.Duration) (r Repaired, err error) {
	r = Repaired{Members: len(w.members), Releases: len(releases), Replicas: w.replicas(), Lost: len(lost), Every: every.Seconds()}
	left := slices.DeleteFunc(w.Up(), func(m *Member) bool { return slices.Contains(lost, m) })
	before, cpu, start := w.net.Counts(), processorTime(), time.Now()
	pulled := w.pulled()
	if err := w.Vanish(lost...); err != nil {
		return r, err
	}
	r.Gone, r.Lacking = w.lacking(releases)
	restart := time.Now().Add(every)
	for {
		time.Sleep(repairStep)
		if every > 0 && !time.Now().Before(restart) {
			if err := w.restart(left); err != nil {
				return r, err
			}
			restart = restart.Add(every)
		}
		_, r.Unrepaired = w.lacking(releases)
		if r.Most == 0 && 10*r.Unrepaired <= r.Lacking {
			r.Most = time.Since(start).Minutes()
		}
		if r.Unrepaired == 0 {
			r.Done = true
			break
		}
		if time.Since(start) > within {
			break
		}
	}
	r.Took = time.Since(start).Minutes()
	time.Sleep(5 * time.Minute) // whoever looks later than those who repaired
	n := float64(len(left))
	sent := w.net.Counts().Since(before)
	r.Messages = float64(sent.Total().Messages) / n
	r.Control = float64(sent.Total(exchange.RecordsID, exchange.PushID, exchange.ClaimID).Bytes) / n
	r.Content = float64(sent.Total(exchange.FilesID).Bytes) / n
	r.CPU = millis(processorTime()-cpu) / n
	r.Pulls = w.pulled() - pulled
	return r, nil
}

// restart takes one member down and up again.
func (w *World) restart(among []*Member) error {
	m := among[w.rng.IntN(len(among))]
	if err := w.Vanish(m); err != nil {
		return err
	}
	time.Sleep(w.cfg.Links.Notice + time.Second)
	w.Return(m)
	return nil
}

func (w *World) pulled() (n int64) {
	for _, m := range w.members {
		n += m.pulls.Load()
	}
	return n
}

// Served asks members chosen at random for files, and returns those that could not
// be had.
func (w *World) Served(ctx context.Context, releases []*Release, kinds ...verify.Kind) (failed []verify.Name) {
	for _, r := range releases {
		for _, k := range kinds {
			if _, err := w.any().Get(ctx, r, k); err != nil {
				failed = append(failed, r.Name(k))
			}
		}
	}
	return slices.Clip(failed)
}
