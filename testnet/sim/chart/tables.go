package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/meshproxy/meshproxy/testnet/sim"
)

// markdown writes one table; every row has as many cells as the head.
func markdown(w io.Writer, title string, head table.Row, rows []table.Row) {
	t := table.NewWriter()
	t.AppendHeader(head)
	t.AppendRows(rows)
	fmt.Fprintf(w, "%s\n\n%s\n\n", title, t.RenderMarkdown())
}

func f(format string, v float64) string { return fmt.Sprintf(format, v) }

func tables(w io.Writer, r *sim.Results) error {
	if _, err := fmt.Fprintf(w, "%s, %s, seed %d.\n\n", r.Date, r.Go, r.Seed); err != nil {
		return err
	}
	questions(w, r)
	states(w, r)
	head := table.Row{"members", "releases", "lost", "restart every", "releases without a copy", "with too few", "repaired after", "nine tenths after",
		"copies made", "messages", "control KB", "files KB", "processor ms"}
	for _, part := range []struct {
		title string
		all   []sim.Repaired
	}{
		{"Repair by members", r.ByMembers}, {"Repair by releases", r.ByReleases},
		{"Repair by loss", r.ByLoss}, {"Repair while others restart", r.ByRestarts},
	} {
		var rows []table.Row
		for _, x := range part.all {
			rows = append(rows, repaired(x))
		}
		markdown(w, part.title, head, rows)
	}
	return nil
}

func questions(w io.Writer, r *sim.Results) {
	var rows []table.Row
	for _, q := range r.Questions {
		for _, c := range []struct {
			what string
			cost sim.Cost
		}{{"in the mesh", q.Hit}, {"not in the mesh", q.Miss}, {fmt.Sprintf("batch of %d", q.BatchOf), q.Batch}, {"claim", q.Claim}} {
			rows = append(rows, table.Row{q.Members, c.what, f("%.1f", c.cost.Streams), f("%.1f", c.cost.Messages), f("%.0f", c.cost.Bytes),
				f("%.0f", c.cost.P50), f("%.0f", c.cost.P99), f("%.1f", c.cost.CPU)})
		}
	}
	markdown(w, "Questions", table.Row{"members", "question", "streams", "messages", "bytes", "p50 ms", "p99 ms", "processor ms"}, rows)
	rows = nil
	for _, c := range slices.Concat(r.Crowds, r.Rushes) {
		rows = append(rows, table.Row{c.Members, f("%.1f", c.Spread), c.Fetched, f("%.0f", c.P50), f("%.0f", c.P99), f("%.1f", c.Messages), f("%.0f", c.Bytes), c.MostOpen, f("%.0f", c.HomeSent/1e3)})
	}
	markdown(w, "Crowds", table.Row{"members", "within s", "fetches", "p50 ms", "p99 ms", "messages each", "bytes each", "most streams", "most sent KB"}, rows)
}

func states(w io.Writer, r *sim.Results) {
	var rows []table.Row
	for _, s := range r.Rosters {
		rows = append(rows, table.Row{s.Members, s.Statements, f("%.0f", float64(s.Bytes)/1e3), f("%.0f", float64(s.Bytes)/float64(s.Members)), f("%.1f", float64(s.IDs)/1e3), f("%.0f", s.Merge), f("%.1f", s.Evaluate)})
	}
	markdown(w, "Rosters", table.Row{"members", "statements", "KB", "bytes a member", "list of IDs KB", "checked in ms", "evaluated in ms"}, rows)
	rows = nil
	for _, s := range r.States {
		rows = append(rows, table.Row{s.Members, s.Releases, f("%.1f", s.Records), s.MostRecords, f("%.1f", s.Envelopes/1e3), f("%.1f", s.Zips), s.MostZips})
	}
	markdown(w, "State", table.Row{"members", "releases", "records each", "most", "KB of records each", "zips each", "most"}, rows)
}

func repaired(r sim.Repaired) table.Row {
	within := func(minutes float64, ok bool) string {
		if !ok {
			return fmt.Sprintf("not: %d left", r.Unrepaired)
		}
		return f("%.1f min", minutes)
	}
	every := "none"
	if r.Every > 0 {
		every = f("%.0f s", r.Every)
	}
	return table.Row{r.Members, r.Releases, r.Lost, every, r.Gone, r.Lacking, within(r.Took, r.Done), within(r.Most, r.Most > 0),
		r.Pulls, f("%.0f", r.Messages), f("%.1f", r.Control/1e3), f("%.1f", r.Content/1e3), f("%.1f", r.CPU)}
}
