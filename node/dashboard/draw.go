package dashboard

import (
	"math"
	"strconv"
	"strings"

	"github.com/meshproxy/meshproxy/node"
)

// Sizes of pictures, in their own units; a browser scales them.
const (
	mapWidth, mapHeight     = 640, 320
	chartWidth, chartHeight = 600, 120
	maxDrawn                = 16 // offices on the map; the table has all
	maxMapName              = 16 // of an office's name on the map, in characters
)

// officeMap is this office amid the others.
type officeMap struct {
	Width, Height int
	X, Y          int
	Name          string
	Places        []place
	More          int // offices that are not drawn
}

// place is another office on the map.
type place struct {
	office
	X, Y   int
	LabelY int // of its name, and 14 below that of its round trip
	Line   int // width of the link, 1 to 6, by what came over it
	Name   string
}

func drawMap(self string, list []office) officeMap {
	m := officeMap{Width: mapWidth, Height: mapHeight, Name: short(self)}
	if len(list) <= 2 {
		m.Height /= 2 // all stand in a row
	}
	m.X, m.Y = m.Width/2, m.Height/2
	m.More = max(0, len(list)-maxDrawn)
	list = list[:len(list)-m.More]
	var most int64 = 1
	for _, o := range list {
		most = max(most, o.Received)
	}
	for i, o := range list {
		angle := 2*math.Pi*float64(i)/float64(len(list)) - math.Pi/2
		switch {
		case len(list) <= 2:
			angle += math.Pi / 2 // beside this office, not above it
		case len(list)%2 == 0:
			angle += math.Pi / float64(len(list)) // none below this office, where its name is
		}
		p := place{office: o, Name: short(o.Office)}
		p.X = m.X + int(math.Round(math.Cos(angle)*mapWidth*0.38))
		p.Y = m.Y + int(math.Round(math.Sin(angle)*mapHeight*0.33))
		p.LabelY = p.Y + 26
		if p.Y < m.Y-10 {
			p.LabelY = p.Y - 28
		}
		p.Line = 1 + int(math.Round(5*math.Sqrt(float64(o.Received)/float64(most))))
		m.Places = append(m.Places, p)
	}
	return m
}

// short cuts a name to what has room on the map.
func short(name string) string {
	if r := []rune(name); len(r) > maxMapName {
		return string(r[:maxMapName-1]) + "…"
	}
	return name
}

// chart is the answers over a time, stacked by where they came from.
type chart struct {
	Width, Height int
	Store         string // outlines of areas, as SVG paths
	Peer          string
	Upstream      string
	Most          uint64 // answers in the busiest step
	All           node.Traffic
}

func drawChart(steps []node.Traffic) chart {
	c := chart{Width: chartWidth, Height: chartHeight}
	for _, t := range steps {
		c.Most = max(c.Most, t.Answers())
		c.All.Store.Answers += t.Store.Answers
		c.All.Peer.Answers += t.Peer.Answers
		c.All.Upstream.Answers += t.Upstream.Answers
		c.All.Failed += t.Failed
	}
	if c.Most == 0 || len(steps) == 0 {
		return c
	}
	// The areas lie above each other: upstream at the bottom, then offices, then the
	// store, so that what was not avoided has a straight base.
	var base = make([]uint64, len(steps))
	area := func(of func(node.Traffic) uint64) string {
		top := make([]uint64, len(steps))
		for i, t := range steps {
			top[i] = base[i] + of(t)
		}
		path := c.area(base, top)
		base = top
		return path
	}
	c.Upstream = area(func(t node.Traffic) uint64 { return t.Upstream.Answers })
	c.Peer = area(func(t node.Traffic) uint64 { return t.Peer.Answers })
	c.Store = area(func(t node.Traffic) uint64 { return t.Store.Answers })
	return c
}

// area is the outline of bars between two heights. Nothing is drawn where both are
// the same throughout.
func (c chart) area(base, top []uint64) string {
	var b strings.Builder
	step := float64(c.Width) / float64(len(top))
	for i := range top {
		if top[i] == base[i] {
			continue
		}
		x0, x1 := float64(i)*step, (float64(i)+0.82)*step
		y0, y1 := c.y(base[i]), c.y(top[i])
		b.WriteString("M" + num(x0) + " " + num(y0) + "V" + num(y1) + "H" + num(x1) + "V" + num(y0) + "Z")
	}
	return b.String()
}

func (c chart) y(answers uint64) float64 {
	return float64(c.Height) * (1 - float64(answers)/float64(c.Most))
}

func num(f float64) string { return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) }
