# flexmix on its own example data: Rscript classic_flexmix.R FOLDER LARGEST STARTS CASE...
#
# Of each case it writes CASE_data.csv, the columns that the experts see and then the targets, and CASE_fits.csv, which
# has a line for every number: components asked for, component, name, value. Component 0 is the mixture.
suppressMessages(library(flexmix))
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
largest <- as.integer(arguments[2])
starts <- as.integer(arguments[3])

data("NPreg", "NregFix", "Nclus", "trypanosome", package = "flexmix")
NPreg$xx <- NPreg$x^2
NregFix <- data.frame(
  y = as.numeric(NregFix$y), x1 = NregFix$x1, x2 = as.numeric(NregFix$x2 == "1"), w = as.numeric(NregFix$w == "1")
)
clusters <- data.frame(y1 = Nclus[, 1], y2 = Nclus[, 2])
gaussian <- function() FLXMRglm(family = "gaussian")
binomial_rows <- function() FLXMRglm(family = "binomial")

cases <- list(
  NPreg = list(data = NPreg, x = c("x", "xx"), y = "yn", model = gaussian),
  NPreg_gate = list(data = NPreg, x = c("x", "xx"), y = "yn", model = gaussian, gate = TRUE),
  NregFix = list(data = NregFix, x = c("x1", "x2", "w"), y = "y", model = gaussian),
  NregFix_gate = list(data = NregFix, x = c("x1", "x2", "w"), y = "y", model = gaussian, gate = TRUE),
  Nclus = list(data = clusters, x = character(), y = c("y1", "y2"), model = FLXMCmvnorm),
  NPreg_binary = list(data = NPreg, x = "x", y = "yb", model = binomial_rows),
  trypanosome = list(data = trypanosome, x = "Dose", y = "Dead", model = binomial_rows)
)

right_side <- function(case) if (length(case$x) == 0) "1" else paste(case$x, collapse = " + ")

left_side <- function(case) {
  if (length(case$y) > 1) return(sprintf("cbind(%s)", paste(case$y, collapse = ", ")))
  if (case$y %in% c("yb", "Dead")) sprintf("cbind(%s, 1 - %s)", case$y, case$y) else case$y
}

fit <- function(case, components) {
  gate <- if (isTRUE(case$gate) && components > 1) FLXPmultinom(reformulate(case$x)) else FLXPconstant()
  formula <- as.formula(paste(left_side(case), "~", right_side(case)))
  control <- list(iter.max = 1000, minprior = 0)
  tried <- lapply(seq_len(starts), function(start) {
    tryCatch(
      flexmix(formula, data = case$data, k = components, model = case$model(), concomitant = gate, control = control),
      error = function(problem) NULL
    )
  })
  tried <- Filter(Negate(is.null), tried)
  if (length(tried) == 0) NULL else tried[[which.max(sapply(tried, logLik))]]
}

numbers <- function(asked, model, gated) {
  line <- function(component, name, value) {
    data.frame(asked = asked, component = component, name = name, value = as.numeric(value))
  }
  found <- list(
    line(0, "components", model@k), line(0, "log_likelihood", logLik(model)), line(0, "bic", BIC(model))
  )
  for (component in seq_len(model@k)) {
    learned <- unlist(parameters(model, component = component, simplify = FALSE))
    found <- c(found, list(line(component, names(learned), learned)))
    if (gated) {
      weights <- parameters(model, which = "concomitant")[, component]
      found <- c(found, list(line(component, paste0("gate", seq_along(weights) - 1), weights)))
    } else {
      found <- c(found, list(line(component, "prior", prior(model)[component])))
    }
  }
  do.call(rbind, found)
}

options(digits = 17)
for (name in arguments[-(1:3)]) {
  set.seed(1)
  case <- cases[[name]]
  write.csv(case$data[, c(case$x, case$y), drop = FALSE], file.path(folder, paste0(name, "_data.csv")), row.names = FALSE)
  fits <- lapply(seq_len(largest), function(components) {
    model <- fit(case, components)
    if (!is.null(model)) numbers(components, model, isTRUE(case$gate) && model@k > 1)
  })
  write.csv(do.call(rbind, fits), file.path(folder, paste0(name, "_fits.csv")), row.names = FALSE)
}
