# flexmix on numbers in a file: Rscript classic_fit.R DATA ROWS COLUMNS COMPONENTS ITERATIONS OUT
#
# DATA holds doubles, column by column, the target last. OUT gets seconds, iterations, log-likelihood and components.
suppressMessages(library(flexmix))
arguments <- commandArgs(trailingOnly = TRUE)
sizes <- as.integer(arguments[2:5])
table <- matrix(readBin(arguments[1], "double", sizes[1] * (sizes[2] + 1)), sizes[1])
colnames(table) <- c(paste0("x", seq_len(sizes[2])), "y")
data <- as.data.frame(table)
columns <- paste(colnames(table)[seq_len(sizes[2])], collapse = " + ")
set.seed(1)
seconds <- system.time(
  model <- flexmix(
    as.formula(paste("y ~", columns)), data, k = sizes[3],
    model = FLXMRglm(family = "gaussian"), concomitant = FLXPmultinom(as.formula(paste("~", columns))),
    control = list(iter.max = sizes[4], minprior = 0)
  )
)[["elapsed"]]
found <- c(seconds, model@iter, as.numeric(logLik(model)), model@k)
write(format(found, digits = 17), arguments[6], ncolumns = 4)
