module davit/e2e/tools/crio

go 1.26.3

require github.com/cri-o/cri-o v1.36.3
