package main

import (
	"fmt"
	"image/color"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	_ "gonum.org/v1/plot/vg/vgsvg" // the format of the plots

	"github.com/meshproxy/meshproxy/testnet/sim"
)

// Size of a plot.
const (
	width  = 16 * vg.Centimeter
	height = 9 * vg.Centimeter
)

// line is one curve.
type line struct {
	name string
	at   plotter.XYs
}

// curve makes a line of results.
func curve[T any](name string, results []T, x, y func(T) float64) line {
	l := line{name: name}
	for _, r := range results {
		l.at = append(l.at, plotter.XY{X: x(r), Y: y(r)})
	}
	return l
}

// picture is one plot.
type picture struct {
	file, title, x, y string
	logX, logY        bool
	lines             []line
}

// colors can be told apart on a light and on a dark ground, and by most who see
// few colours.
var colors = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff}, color.RGBA{0xcc, 0x79, 0xa7, 0xff},
}

func (p picture) draw(dir string) error {
	pl := plot.New()
	pl.BackgroundColor = color.White
	pl.Title.Text, pl.X.Label.Text, pl.Y.Label.Text = p.title, p.x, p.y
	pl.Legend.Top, pl.Legend.Left = true, true
	pl.Add(plotter.NewGrid())
	if p.logX {
		pl.X.Scale, pl.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if p.logY {
		pl.Y.Scale, pl.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	} else {
		pl.Y.Min = 0
	}
	highest := 0.0
	for i, l := range p.lines {
		if len(l.at) == 0 {
			continue
		}
		curve, points, err := plotter.NewLinePoints(l.at)
		if err != nil {
			return fmt.Errorf("plot %s: %w", p.file, err)
		}
		c := colors[i%len(colors)]
		curve.Color, points.Color = c, c
		curve.Width = vg.Points(1.5)
		pl.Add(curve, points)
		pl.Legend.Add(l.name, curve, points)
		for _, xy := range l.at {
			highest = max(highest, xy.Y)
		}
	}
	if highest == 0 {
		return nil // these were left out
	}
	pl.Y.Max = highest * 1.6 // room for the legend
	if p.logY {
		pl.Y.Max = highest * 6
	}
	return pl.Save(width, height, filepath.Join(dir, p.file+".svg"))
}

func plots(dir string, r *sim.Results) error {
	for _, p := range append(questionPlots(r), repairPlots(r)...) {
		if err := p.draw(dir); err != nil {
			return err
		}
	}
	return nil
}

func questionPlots(r *sim.Results) []picture {
	members := func(q sim.Questions) float64 { return float64(q.Members) }
	crowd := func(c sim.Crowd) float64 { return float64(c.Members) }
	return []picture{
		{"messages", "Messages of one question", "members", "messages", true, false, []line{
			curve("go.mod that is in the mesh", r.Questions, members, func(q sim.Questions) float64 { return q.Hit.Messages }),
			curve("go.mod that is not", r.Questions, members, func(q sim.Questions) float64 { return q.Miss.Messages }),
			curve("claim and report, with heartbeats of 1 s", r.Questions, members, func(q sim.Questions) float64 { return q.Claim.Messages }),
			curve("batch of 100, for each name", r.Questions, members, func(q sim.Questions) float64 { return q.Batch.Messages / float64(q.BatchOf) }),
		}},
		{"latency", "Time of one question, mean round trip 80 ms", "members", "milliseconds", true, false, []line{
			curve("in the mesh, median", r.Questions, members, func(q sim.Questions) float64 { return q.Hit.P50 }),
			curve("in the mesh, 99 %", r.Questions, members, func(q sim.Questions) float64 { return q.Hit.P99 }),
			curve("not in the mesh, median", r.Questions, members, func(q sim.Questions) float64 { return q.Miss.P50 }),
			curve("claim and report, median", r.Questions, members, func(q sim.Questions) float64 { return q.Claim.P50 }),
		}},
		{"processor", "Processor time of one question, all who take part", "members", "milliseconds", true, true, []line{
			curve("in the mesh", r.Questions, members, func(q sim.Questions) float64 { return q.Hit.CPU }),
			curve("claim and report", r.Questions, members, func(q sim.Questions) float64 { return q.Claim.CPU }),
			curve("batch of 100", r.Questions, members, func(q sim.Questions) float64 { return q.Batch.CPU }),
		}},
		{"crowd", "Every member wants one new go.mod within 5 s", "members", "streams open at the busiest", true, true, []line{
			curve("streams", r.Crowds, crowd, func(c sim.Crowd) float64 { return float64(c.MostOpen) }),
		}},
	}
}

func repairPlots(r *sim.Results) []picture {
	roster := func(s sim.RosterSize) float64 { return float64(s.Members) }
	sizes := func(r sim.Repaired) float64 { return float64(r.Members) }
	releases := func(r sim.Repaired) float64 { return float64(r.Releases) }
	control := func(r sim.Repaired) float64 { return r.Control / 1e3 }
	content := func(r sim.Repaired) float64 { return r.Content / 1e3 }
	return []picture{
		{"roster", "What every member keeps about all members", "members", "KB", true, true, []line{
			curve("roster", r.Rosters, roster, func(s sim.RosterSize) float64 { return float64(s.Bytes) / 1e3 }),
			curve("list of its IDs, as exchanged", r.Rosters, roster, func(s sim.RosterSize) float64 { return float64(s.IDs) / 1e3 }),
		}},
		{"repair-members", "A tenth of the members is lost: traffic of each that is left", "members", "KB", true, true, []line{
			curve("records, pushes, claims", r.ByMembers, sizes, control), curve("files", r.ByMembers, sizes, content),
		}},
		{"repair-releases", "A tenth of the members is lost: traffic of each that is left, by releases", "releases", "KB", true, true, []line{
			curve("records, pushes, claims", r.ByReleases, releases, control), curve("files", r.ByReleases, releases, content),
		}},
		{"repair-churn", "Traffic of each member that is left, by the part that is lost", "members lost, %", "KB", false, false, []line{
			curve("records, pushes, claims", r.ByLoss, lostPart, control), curve("files", r.ByLoss, lostPart, content),
		}},
	}
}

func lostPart(r sim.Repaired) float64 { return 100 * float64(r.Lost) / float64(r.Members) }
